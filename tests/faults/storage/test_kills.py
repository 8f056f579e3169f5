from __future__ import annotations

import pytest

from tests.faults.storage.conftest import Laboratory, failures

HOWS = ("before", "after", "torn")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("script", ["1", "2"])
def test_killed_at_any_call(laboratory: Laboratory, long: bool, script: str) -> None:
    """And killed again while it starts. What write() took is there once, the rest lies in a gap record."""
    (counted,) = laboratory("count", [script])
    calls = int(counted["what"])
    assert calls > 100
    if long:
        cases = [f"{script}-{at}-{how}" for at in range(1, calls + 1) for how in HOWS]
    else:
        cases = [f"{script}-{at}-{HOWS[at % 3]}" for at in range(int(script), calls + 1, max(1, calls // 30))]
    assert not failures(laboratory("kill", cases))


def test_a_new_epoch_is_begun_whole_or_not_at_all(laboratory: Laboratory, long: bool) -> None:
    """Killed at any call of the change, the store is of the one epoch or of the other, and nothing is missing."""
    cases = [f"3-{at}-{HOWS[at % 3]}" for at in range(1, 61, 4)]
    if long:
        cases = [f"{script}-{at}-{how}" for script in (3, 4, 5) for at in range(1, 71) for how in HOWS]
    results = laboratory("epoch", cases)
    assert not failures(results)
    assert {one["what"].partition(": ")[2] for one in results} == {"begun", "not begun"}
