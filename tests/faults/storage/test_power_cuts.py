from __future__ import annotations

import pytest

from tests.faults.storage.conftest import Laboratory, failures


@pytest.mark.timeout(1800)
def test_power_cut_at_any_instant(laboratory: Laboratory, long: bool) -> None:
    """Often again while it starts. What was said to be durable is there once, the rest lies in a gap record."""
    scripts, cuts = (60, 10) if long else (12, 5)
    assert not failures(laboratory("power", [f"{script}-{cut}" for script in range(scripts) for cut in range(cuts)]))
