from __future__ import annotations

import pytest

from tests.faults.storage.conftest import Laboratory, failures


@pytest.mark.timeout(1800)
def test_bytes_change_at_rest(laboratory: Laboratory, long: bool) -> None:
    """The start goes on, what is readable is kept, and what is lost is recorded or missing by the numbers."""
    assert not failures(laboratory("damage", [f"{case}-0" for case in range(300 if long else 40)]))
