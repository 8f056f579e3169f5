"""What a benchmark group yields, and how it reads its clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


class Figure(NamedTuple):
    """One line of `make bench`: key value unit, and a remark where the number needs one."""

    key: str
    value: float
    unit: str
    remark: str = ""

    def __str__(self) -> str:
        value = f"{self.value:.0f}" if abs(self.value) >= 1000 else f"{self.value:.3f}"
        return f"{self.key} {value} {self.unit}" + (f"  # {self.remark}" if self.remark else "")


def cpu_seconds(work: Callable[[], object], *, repeat: int = 5) -> float:
    """Median of this process's CPU time for one call."""
    spent = []
    for _ in range(repeat):
        started = time.process_time()
        work()
        spent.append(time.process_time() - started)
    return statistics.median(spent)
