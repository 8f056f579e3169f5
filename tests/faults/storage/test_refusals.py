from __future__ import annotations

import pytest

from tests.faults.storage.conftest import Laboratory, failures


@pytest.mark.timeout(1800)
def test_disk_refuses_for_a_while(laboratory: Laboratory, long: bool) -> None:
    """Full, failing, over quota, read-only or taking half: no driver stops, and it goes on by itself afterwards."""
    assert not failures(laboratory("refuse", [str(case) for case in range(300 if long else 24)]))
