"""What must survive any stop, in one file that is replaced as a whole.

Each transition is one rename, made before it takes effect.

<data dir>/desired/
    state.json              the phase and everything that belongs to it
    <sha256>.json           a staged document, named by its content; written before state.json names it
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Literal

import msgspec
import structlog
from msgspec import Struct

from gateway.identity.files import sync_folder, write_durably
from protos.comboio.v1 import link_pb2 as wire
from protos.config import digest

QUARANTINE_LIMIT = 64
Phase = Literal["staged", "ready", "applying", "probation", "rolling_back"]

log = structlog.get_logger("gateway.desired")


class Revision(Struct, frozen=True, kw_only=True):
    """A pushed document by its name: the SHA-256 of its bytes, in hexadecimal."""

    generation: int
    hash: str


class Trial(Struct, frozen=True, kw_only=True):
    """A revision on its way to being committed."""

    generation: int
    hash: str
    phase: Phase
    probation_s: float
    left_s: float
    """Probation still to come; persisted now and then, so that a stop does not begin it anew."""
    starts: int = 0
    """How often parts were started under it."""
    demanded: tuple[str, ...] = ()
    """Sensors that delivered before and must again."""
    required: tuple[str, ...] = ()
    """New sensors that must deliver."""
    reconnect: bool = False
    """The control plane must be reached under it."""
    reason: int = wire.CONFIG_REASON_UNSPECIFIED
    text: str = ""


class Outcome(Struct, frozen=True, kw_only=True):
    """What was said last of an offer."""

    generation: int
    hash: str
    phase: int
    reason: int = wire.CONFIG_REASON_UNSPECIFIED
    pointer: str = ""
    text: str = ""
    retry_at_ms: int = 0


class State(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`committed`: what runs, or is gone back to; None: the hand-written document."""

    committed: Revision | None = None
    trial: Trial | None = None
    waiting: Trial | None = None
    """Newer than `trial`, staged or ready, until a safe point."""
    last: Outcome | None = None
    quarantine: tuple[Outcome, ...] = ()
    retries: int = 0
    """Attempts in a row that ended for a reason of the moment."""

    @property
    def generation(self) -> int:
        """The newest generation ever taken: older offers are replays."""
        known = [one.generation for one in (self.committed, self.trial, self.waiting, self.last) if one is not None]
        return max(known, default=0)

    def quarantined(self, name: str) -> Outcome | None:
        return next((one for one in self.quarantine if one.hash == name), None)


class Desk:
    """The folder. Synchronous, small files; every write is durable when it returns."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._path = folder / "state.json"
        self._lock = Lock()
        self.state = self._load()

    def _load(self) -> State:
        if not self._path.exists():
            return State()
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=State)
        except msgspec.MsgspecError as error:
            aside = self._path.with_suffix(".damaged")
            self._path.replace(aside)
            sync_folder(self._folder)
            log.error("configuration.damaged", aside=str(aside), why=str(error), until="it is pushed again")
            return State()

    def save(self, state: State) -> None:
        """Make `state` the truth."""
        self.change(lambda _: state)

    def change(self, by: Callable[[State], State]) -> None:
        """The same from what is there now, one after the other: a save may outlive the task that asked for it."""
        with self._lock:
            state = by(self.state)
            write_durably(self._path, msgspec.json.encode(state), mode=0o600)
            self.state = state

    def keep(self, document: bytes) -> str:
        """Store a document; returns its name."""
        name = digest(document).hex()
        path = self._document(name)
        if not path.exists():
            write_durably(path, document, mode=0o600)
        return name

    def document(self, name: str) -> bytes:
        """Raises OSError, or ValueError when the bytes are no longer those of the name."""
        document = self._document(name).read_bytes()
        if digest(document).hex() != name:
            raise ValueError(f"{self._document(name)}: damaged")
        return document

    def tidy(self) -> None:
        """Delete documents that nothing names any more."""
        state = self.state
        named = {f"{one.hash}.json" for one in (state.committed, state.trial, state.waiting) if one is not None}
        for path in self._folder.glob("*.json"):
            if path != self._path and path.name not in named:
                path.unlink(missing_ok=True)

    def _document(self, name: str) -> Path:
        return self._folder / f"{name}.json"
