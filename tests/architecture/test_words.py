from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "an absolute path of a developer's machine": re.compile(rb"(?<![\w.])/(?:work|root|home/\w+)/"),
    "a package host": re.compile(rb"https?://[^\s\"']*/simple/|files\.pythonhosted|registry\.npmjs"),
}


def _tracked() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("what", sorted(FORBIDDEN))
def test_no_file_holds(what: str) -> None:
    files = [path for path in _tracked() if path != Path(__file__)]
    assert len(files) > 100
    found = [str(path.relative_to(ROOT)) for path in files if FORBIDDEN[what].search(path.read_bytes())]
    assert not found
