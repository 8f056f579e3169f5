"""Who uses a data folder with SQLite stores: servers share it, what copies or replaces it has it alone.

A folder whose content was moved elsewhere says so in `moved.json`, and no server starts on it.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from control_plane.durable import replace_file
from control_plane.errors import Misconfigured
from control_plane.settings import Settings

LOCK = "servers.lock"
MOVED = "moved.json"


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    to: str
    at_ms: int


def embedded(settings: Settings) -> bool:
    return settings.database_url.startswith("sqlite:")


@contextmanager
def running_on(settings: Settings) -> Iterator[None]:
    """For a server, as long as it runs. Raises Misconfigured where the folder was moved or is being worked on."""
    if not embedded(settings):
        yield
        return
    refuse_moved(settings)
    with _locked(settings.data, fcntl.LOCK_SH, "it is being copied or restored: wait for that to end"):
        yield


@contextmanager
def alone_on(data: Path) -> Iterator[None]:
    """While no server runs, and none can start. Raises Misconfigured if one does."""
    with _locked(data, fcntl.LOCK_EX, "a server runs on it: stop it first"):
        yield


@contextmanager
def _locked(data: Path, how: int, else_: str) -> Iterator[None]:
    with (data / LOCK).open("a+") as handle:
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Misconfigured(f"--data-dir {data}: {else_}") from None
        yield


def refuse_moved(settings: Settings) -> None:
    path = settings.data / MOVED
    if embedded(settings) and path.exists():
        said = msgspec.json.decode(path.read_bytes(), type=Moved)
        raise Misconfigured(
            f"--data-dir {settings.data}: this installation was moved to {said.to}; start it with --database. To go on "
            f"with the SQLite files after all, and without what came there since, remove {path}"
        )


def mark_moved(data: Path, *, to: str, now_ms: int) -> None:
    replace_file(data / MOVED, msgspec.json.encode(Moved(to=to, at_ms=now_ms)))


def unmark_moved(data: Path) -> None:
    (data / MOVED).unlink(missing_ok=True)
