"""The last proven counter of each device with a key, across restarts: what was recorded before must not come again.

One small file, rewritten whole and renamed into place, at most once a minute and when the gateway stops: flash wears.
So a process that is killed forgets at most the last minute, and a recording of that minute is taken once more.
An entry belongs to an address and a key; a sensor that counts from the start again is believed after it got a new key,
or was forgotten by `forget`.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import structlog

from gateway.clock import Clock
from gateway.decoders.advertisements import Counter

WRITE_EVERY_MS = 60_000
FILE = "counters.json"

log = structlog.get_logger("gateway.ble")


class CounterMemory:
    """One per gateway. Never raises: without its file it remembers until the process ends, and says so."""

    def __init__(self, *, path: Path | None, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._known = _read(path)
        self._unsaved = False
        self._written_ms: int | None = None

    def last(self, address: str, key: bytes) -> Counter | None:
        """The highest counter that was taken from this device under this key."""
        found = self._known.get(_name(address, key))
        return None if found is None else Counter(found, 32, proven=True)

    def took(self, address: str, key: bytes, counter: Counter) -> None:
        self._known[_name(address, key)] = counter.value
        self._unsaved = True
        now_ms = self._clock.mono_ms()
        if self._written_ms is None or now_ms - self._written_ms >= WRITE_EVERY_MS:
            self._written_ms = now_ms
            self.save()

    def save(self) -> None:
        """Now. Without a folder nothing is kept."""
        if self._path is None or not self._unsaved:
            return
        try:
            _write(self._path, self._known)
            self._unsaved = False
        except OSError as error:
            log.error("ble.memory", path=str(self._path), error=str(error))


def forget(path: Path, address: str) -> bool:
    """Believe the next counter of that device, whatever it is; the gateway must not be running. Raises OSError."""
    known = _read(path)
    kept = {name: value for name, value in known.items() if not name.startswith(f"{address} ")}
    if len(kept) == len(known):
        return False
    _write(path, kept)
    return True


def _name(address: str, key: bytes) -> str:
    """The key itself is a secret, its digest is none."""
    return f"{address} {hashlib.sha256(b'comboio ble counter' + key).hexdigest()[:16]}"


def _read(path: Path | None) -> dict[str, int]:
    if path is None or not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): int(value) for name, value in found.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        log.error("ble.memory", path=str(path), error=f"{error}; counters begin anew")
        return {}


def _write(path: Path, known: dict[str, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(known, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
