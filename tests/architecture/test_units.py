from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = sorted((Path(__file__).parents[2] / "systemd").glob("*.service"))


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("systemd-analyze is not installed and CI is set")
        pytest.skip("systemd-analyze is not installed")
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_verifies_without_a_word_and_is_well_confined(unit: Path, analyze: str, tmp_path: Path) -> None:
    copy = tmp_path / unit.name  # the program need not be installed for its unit to be right
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE))
    said = subprocess.run([analyze, "verify", copy], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")
    score = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", copy], capture_output=True, text=True, check=True
    ).stdout
    match = re.search(r"Overall exposure level for \S+: ([\d.]+)", score)
    assert match is not None
    assert float(match[1]) <= 2.0


def test_there_are_units_for_both_programs() -> None:
    assert [unit.name for unit in UNITS] == ["comboio-control.service", "comboio-gateway.service"]
