"""Which of several ways to the control plane is taken.

In order of preference. One that failed rests, longer each time; so a way that comes and goes does not take the
connection with it at each turn. A better one than the current is taken again only after it could be reached several
times in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.clock import Clock
from protos.config import Via

INTERFACES = Path("/sys/class/net")
REST_MS = 30_000
MOST_REST_MS = 600_000
PROVED_MS = 600_000
"""Connected for so long, what failed before is forgotten."""
PROOFS = 3


@dataclass(slots=True)
class _State:
    failures: int = 0
    rests_until_ms: int = 0
    proofs: int = 0


def present(via: Via, interfaces: Path = INTERFACES) -> bool:
    """Whether its interface is there and not known to be down."""
    if not via.interface:
        return True
    try:
        return (interfaces / via.interface / "operstate").read_text().strip() in {"up", "unknown"}
    except OSError:
        return False


class Ways:
    """`choose`, then `failed` or, when the connection ends, `carried_for`; `better` and `reached` while connected."""

    def __init__(self, vias: Sequence[Via], *, clock: Clock, present: Callable[[Via], bool] = present) -> None:
        self._vias = vias
        self._clock = clock
        self._present = present
        self._states = {via.id: _State() for via in vias}

    def choose(self) -> Via | None:
        """The first that is there and does not rest, else the one that rests least; None: there is no choice."""
        if not self._vias:
            return None
        now_ms = self._clock.mono_ms()
        ready = [via for via in self._vias if self._present(via) and self._states[via.id].rests_until_ms <= now_ms]
        return ready[0] if ready else min(self._vias, key=self._last_resort)

    def _last_resort(self, via: Via) -> tuple[bool, int]:
        return not self._present(via), self._states[via.id].rests_until_ms

    def failed(self, via: Via) -> None:
        """It could not be reached by it, or the connection died."""
        state = self._states[via.id]
        rest_ms = min(MOST_REST_MS, REST_MS * 2**state.failures)
        state.failures = min(state.failures + 1, 8)
        state.rests_until_ms = self._clock.mono_ms() + rest_ms
        state.proofs = 0

    def carried_for(self, via: Via, lasted_ms: int) -> None:
        """A connection by it lasted so long."""
        if lasted_ms >= PROVED_MS:
            self._states[via.id] = _State()

    def better(self, than: Via) -> list[Via]:
        """Preferred ones worth a look now."""
        now_ms = self._clock.mono_ms()
        before = self._vias[: self._vias.index(than)]
        return [via for via in before if self._present(via) and self._states[via.id].rests_until_ms <= now_ms]

    def looked(self, via: Via, *, reached: bool) -> bool:
        """Whether it has now been reached often enough to go back to it."""
        state = self._states[via.id]
        state.proofs = state.proofs + 1 if reached else 0
        return state.proofs >= PROOFS
