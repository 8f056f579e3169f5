from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_make_help_lists_every_command_a_newcomer_needs() -> None:
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = {line.split()[1] for line in said.splitlines() if line.startswith("  make ")}
    assert {"setup", "demo", "test", "check", "protos", "fmt", "faults", "bench", "package", "shape"} <= listed


def test_the_top_level_is_as_announced() -> None:
    known = {"gateway", "control_plane", "protos", "firmware_configs", "systemd", "tests", "pyproject.toml", "Makefile"}
    known |= {"README.md", "docs", "benchmarks", ".ci", "LICENSE", ".gitignore"}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    top = {line.split("/", 1)[0] for line in listed.splitlines()}
    assert top <= known
