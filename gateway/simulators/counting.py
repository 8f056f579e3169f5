"""Values by which every read can be told apart, and nothing else: shared by the simulator and its checkers."""

from __future__ import annotations


def counting(*, unit: int, address: int, k: int) -> int:
    """What register `address` of `unit` gives at its `k`-th read, `k` from 1."""
    return (k + 997 * unit + 31 * address) % 65536
