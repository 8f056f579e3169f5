"""A simulated sensor's own record of what it sent: the truth a balance is checked against.

One JSON object per line, written before it is sent: `{"wall_ms", "mono_ms", "sensor", "k", "values", …}`. `k` numbers
the measurements of one sensor from 1; `values` is what each quantity means, exactly as the far end has to show it.
`fault` marks what is no new measurement (a replay, garbage): it must arrive nowhere.

Every measurement sent while a gateway lived arrives once, or lies in a gap. The simulator is never the one that is
killed, so the file is not synced.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from gateway.clock import Clock

Sent = Mapping[str, float | int | bool | str]


class SentLog:
    """Append-only. `path` None keeps nothing."""

    def __init__(self, *, path: Path | None, clock: Clock) -> None:
        self._clock = clock
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if path is not None else None

    def write(self, sensor: str, k: int, values: Sent, *, fault: str | None = None) -> None:
        if self._fd is None:
            return
        line: dict[str, object] = {
            "wall_ms": self._clock.wall_ms(),
            "mono_ms": self._clock.mono_ms(),
            "sensor": sensor,
            "k": k,
            "values": dict(values),
        }
        if fault is not None:
            line["fault"] = fault
        os.write(self._fd, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
