"""Where the machine can't run it says what to do, and fails; it is left out only by who says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bluez_vm import machine


def test_without_its_programs_it_fails_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv(machine.SKIP, raising=False)
    monkeypatch.setattr(machine, "PATHS", str(tmp_path))
    assert machine.main() == 1
    said = capsys.readouterr().out
    assert "apt-get install --no-install-recommends" in said
    assert "qemu-system-x86" in said
    assert "COMBOIO_SKIP_VM=1" in said


def test_left_out_it_says_that_nothing_was_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(machine.SKIP, "1")
    assert machine.main() == 0
    assert "nothing was tried against a real BlueZ" in capsys.readouterr().out
