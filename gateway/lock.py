"""One daemon per data folder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.errors import Misconfigured


@contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Hold the folder's lock. Raises Misconfigured when another process has it; it goes with the process."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Misconfigured(f"{data_dir}: another comboio-gateway is running on it") from None
        yield
