"""How much of each gateway is taken: batches a second and bytes a day, as averages that may be saved up for a while.

Counted in memory and per process: a quota keeps a gateway that sends far too much from crowding out others and from
filling the disk, and is no bill. Over it, a gateway is slowed down to the average; nothing is refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

DAY_S = 86_400.0
BURST_S = 60.0
"""So many seconds' batches may come at once: a gateway that comes back has a backlog."""
MOST = 100_000


@dataclass(slots=True)
class _Bucket:
    batches: float
    bytes: float
    at_s: float


class Quota:
    """Pure but for its clock; of one event loop. 0: no limit."""

    def __init__(self, *, batches_per_s: float, bytes_per_day: int, monotonic_s: Callable[[], float]) -> None:
        self._batches_per_s = batches_per_s
        self._bytes_per_day = bytes_per_day
        self._now = monotonic_s
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, gateway: str, size: int) -> tuple[float, str]:
        """Count one batch; for how many seconds the gateway is over what it may send (0.0: it is not), and of what."""
        if not self._batches_per_s and not self._bytes_per_day:
            return 0.0, ""
        bucket = self._filled(gateway)
        bucket.batches -= 1
        bucket.bytes -= size
        if self._batches_per_s and bucket.batches < 0:
            return -bucket.batches / self._batches_per_s, f"sends more than {self._batches_per_s:g} batches a second"
        if self._bytes_per_day and bucket.bytes < 0:
            return -bucket.bytes * DAY_S / self._bytes_per_day, f"sends more than {self._bytes_per_day} bytes a day"
        return 0.0, ""

    def _filled(self, gateway: str) -> _Bucket:
        now = self._now()
        most = max(1.0, self._batches_per_s * BURST_S)
        bucket = self._buckets.pop(gateway, None) or _Bucket(most, float(self._bytes_per_day), now)
        passed_s, bucket.at_s = now - bucket.at_s, now
        bucket.batches = min(most, bucket.batches + passed_s * self._batches_per_s)
        bucket.bytes = min(self._bytes_per_day, bucket.bytes + passed_s * self._bytes_per_day / DAY_S)
        self._buckets[gateway] = bucket
        if len(self._buckets) > MOST:
            self._buckets.popitem(last=False)
        return bucket
