from __future__ import annotations

import filecmp
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROTOS = ROOT / "protos" / "comboio" / "v1"


def test_the_committed_stubs_are_those_of_the_proto_files(tmp_path: Path) -> None:
    sources = sorted(str(path.relative_to(ROOT)) for path in PROTOS.glob("*.proto"))
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python")]
    outputs += [f"--{kind}_out=quiet:{tmp_path}" for kind in ("mypy", "mypy_grpc")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, *sources]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PATH": path}, check=True)
    made = sorted((tmp_path / "protos" / "comboio" / "v1").iterdir())
    assert len(made) == 4 * len(sources)
    stale = [one.name for one in made if not filecmp.cmp(one, PROTOS / one.name, shallow=False)]
    assert not stale, f"run make protos: {stale}"
