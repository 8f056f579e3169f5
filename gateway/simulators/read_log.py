"""The simulator's own record of the reads it answered: the truth a balance is checked against.

One JSON object per line, written to the file before the answer leaves:
`{"wall_ms", "mono_ms", "unit", "function", "address", "count", "k", …}`. `mono_ms` is CLOCK_BOOTTIME; `k` is the
number of this read of the first register, from 1. `ks` is there when other registers of the answer are at another
number, `raw` (the words answered) for values that can't be computed, and `fault` when no valid answer was sent: such a
read is not "answered".

A checker matches rows and reads by `k`. A read that is no row must lie in a gap between the rows of its neighbouring
`k`s; not by `mono_ms`, since a row's time is the middle of its exchange, which may lie before the device's answer to
the question before it. The simulator itself is never the one that is killed, so the file is not synced.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from gateway.clock import Clock


class ReadLog:
    """Append-only. `path` None keeps nothing."""

    def __init__(self, *, path: Path | None, clock: Clock) -> None:
        self._clock = clock
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if path is not None else None

    def write(
        self,
        *,
        unit: int,
        function: int,
        address: int,
        ks: Sequence[int],
        raw: Sequence[int] | None = None,
        fault: str | None = None,
    ) -> None:
        if self._fd is None:
            return
        first = ks[0]
        more = "" if ks.count(first) == len(ks) else f',"ks":{_array(ks)}'
        more += f',"raw":{_array(raw)}' if raw is not None else ""
        more += f',"fault":"{fault}"' if fault is not None else ""
        line = (
            f'{{"wall_ms":{self._clock.wall_ms()},"mono_ms":{self._clock.mono_ms()},"unit":{unit},'
            f'"function":{function},"address":{address},"count":{len(ks)},"k":{first}{more}}}\n'
        )
        os.write(self._fd, line.encode())

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _array(values: Sequence[int]) -> str:
    return "[" + ",".join(map(str, values)) + "]"
