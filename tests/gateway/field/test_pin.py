from __future__ import annotations

import stat
from pathlib import Path

import pytest

from gateway.errors import Misconfigured
from gateway.field import pin


def test_a_pin_is_kept_as_a_hash_that_only_its_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "field.pin"
    pin.write(path, "482913")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"482913" not in path.read_bytes()
    assert pin.read(path).fits("482913")
    assert not pin.read(path).fits("482914")
    before = path.read_bytes()
    pin.write(path, "482913")
    assert path.read_bytes() != before  # salted


@pytest.mark.parametrize("weak", ["12345", "", "111111", "123456", "987654", "1" * 65, "121212"])
def test_a_pin_that_would_be_guessed_first_is_refused(weak: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured):
        pin.write(tmp_path / "p", weak)
    assert not (tmp_path / "p").exists()


def test_a_file_that_others_can_read_or_that_is_damaged_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "p"
    pin.write(path, "482913")
    path.chmod(0o644)
    with pytest.raises(Misconfigured, match="chmod 600"):
        pin.read(path)
    path.chmod(0o600)
    path.write_text("{}")
    with pytest.raises(Misconfigured, match="set-pin"):
        pin.read(path)
