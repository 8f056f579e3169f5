"""Is an advertisement a new measurement? Pure.

Devices repeat one measurement many times, and the system hands out the last payload again whenever anything about a
device changes (bleak calls back on connecting and disconnecting too). So: the same bytes are never news, and a counter
decides about the rest. One that is proven (encrypted) only ever rises. One that anybody can write may start again, as
after a change of battery: what looks older is taken once the device was quiet for `restart_ms`.
"""

from __future__ import annotations

from enum import Enum

from gateway.decoders.advertisements import Counter


class News(Enum):
    NEW = "new"
    REPEATED = "repeated"
    OLDER = "older"


class Freshness:
    """What was last heard of one device."""

    def __init__(self, *, restart_ms: int, last: Counter | None = None) -> None:
        """`last`: the counter that a process before this one took."""
        self._restart_ms = restart_ms
        self._payload: bytes | None = None
        self._taken: bytes | None = None
        self._counter = last
        self._at_ms = 0

    def repeats(self, payload: bytes) -> bool:
        """The bytes of the last call or of the last measurement; cheaper than decoding them."""
        same = payload in {self._payload, self._taken}
        self._payload = payload
        return same

    def judge(self, counter: Counter | None, mono_ms: int) -> News:
        """Whether the measurement just asked about, with this counter, is news; if so, it is now the last one."""
        news = self._news(counter, mono_ms)
        if news is News.NEW:
            self._counter, self._at_ms, self._taken = counter, mono_ms, self._payload
        return news

    def _news(self, counter: Counter | None, mono_ms: int) -> News:
        last = self._counter
        if counter is None or last is None or last.bits != counter.bits:
            return News.NEW
        if counter.value == last.value:
            return News.REPEATED
        if counter.proven:
            return News.NEW if counter.value > last.value else News.OLDER
        ahead = (counter.value - last.value) % (1 << counter.bits)
        if ahead < 1 << counter.bits - 1 or mono_ms - self._at_ms >= self._restart_ms:
            return News.NEW
        return News.OLDER
