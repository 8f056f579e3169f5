"""How far each gateway is from what is wanted of it, in one word and one sentence.

Truth is what the gateway says it runs; statuses explain the way there, offers that it was asked at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, Row, select

from control_plane.clock import Clock
from control_plane.fleet.offers import CONTENT, UNDONE
from control_plane.store.engine import Stores
from control_plane.store.tables import config_desired, config_offer, config_status, presence
from protos.comboio.v1 import link_pb2 as wire

State = Literal[
    "UNMANAGED",
    "IN_SYNC",
    "PENDING",
    "OFFERED",
    "STAGED",
    "REJECTED",
    "READY",
    "DEFERRED",
    "APPLYING",
    "PROBATION",
    "APPLIED",
    "ROLLING_BACK",
    "ROLLED_BACK",
    "FAILED",
    "DRIFTED",
    "SUPERSEDED",
]
SETTLED = {wire.CONFIG_IN_SYNC, wire.CONFIG_APPLIED}
ON_THE_WAY: dict[int, tuple[State, str]] = {
    wire.CONFIG_STAGED: ("STAGED", "The gateway keeps it and is checking it."),
    wire.CONFIG_READY: ("READY", "The gateway found it good and is about to apply it."),
    wire.CONFIG_DEFERRED: ("DEFERRED", "The gateway waits for a moment to apply it."),
    wire.CONFIG_APPLYING: ("APPLYING", "The gateway is restarting its sensors under it."),
    wire.CONFIG_PROBATION: ("PROBATION", "It runs and has to prove itself before it is kept."),
    wire.CONFIG_ROLLING_BACK: ("ROLLING_BACK", "The gateway is going back to the one before"),
}
ENDED: dict[int, tuple[State, str]] = {
    wire.CONFIG_REJECTED: ("REJECTED", "The gateway did not take it"),
    wire.CONFIG_ROLLED_BACK: ("ROLLED_BACK", "The gateway undid it and runs the one before"),
    wire.CONFIG_FAILED: ("FAILED", "The gateway runs without sensors"),
}
OFFLINE_AFTER_MS = 3 * 60_000


class Way(StrEnum):
    """The states, as far as somebody needs to tell them apart who looks at a whole fleet."""

    IN_FORCE = "in_force"
    PENDING = "pending"
    UNDER_WAY = "under_way"
    REFUSED = "refused"
    DRIFTED = "drifted"
    LOCAL = "local"


WAYS: dict[State, Way] = {
    "UNMANAGED": Way.LOCAL,
    "IN_SYNC": Way.IN_FORCE,
    "APPLIED": Way.IN_FORCE,
    "PENDING": Way.PENDING,
    "OFFERED": Way.PENDING,
    "SUPERSEDED": Way.PENDING,
    "DEFERRED": Way.PENDING,
    "STAGED": Way.UNDER_WAY,
    "READY": Way.UNDER_WAY,
    "APPLYING": Way.UNDER_WAY,
    "PROBATION": Way.UNDER_WAY,
    "ROLLING_BACK": Way.UNDER_WAY,
    "REJECTED": Way.REFUSED,
    "ROLLED_BACK": Way.REFUSED,
    "FAILED": Way.REFUSED,
    "DRIFTED": Way.DRIFTED,
}


class Said(NamedTuple):
    """One thing a gateway said of one generation."""

    generation: int
    hash: str
    phase: int
    reason: int
    pointer: str
    text: str
    retry_at_ms: int
    received_ms: int


class Facts(NamedTuple):
    """Everything a status is computed from. `said`: oldest first."""

    gateway: str
    generation: int
    wanted: str
    """Hash; empty when nothing is wanted."""
    running: wire.RunningConfig | None
    online: bool
    offered: int
    said: Sequence[Said] = ()


class Status(NamedTuple):
    state: State
    sentence: str
    offline: bool


def judge(facts: Facts) -> Status:
    """Pure."""
    state, sentence = _judge(facts)
    return Status(state, sentence, not facts.online)


def settled(facts: Facts) -> bool:
    """Whether the answer is plain without what the gateway said on the way: in a fleet at rest, nearly always."""
    running = facts.running
    if not facts.wanted or (running is not None and running.local_management):
        return True
    return running is not None and running.pushed_hash.hex() == facts.wanted and running.phase in SETTLED


def _judge(facts: Facts) -> tuple[State, str]:
    running = facts.running
    if not facts.wanted:
        return "UNMANAGED", "No layer says anything for this gateway."
    if running is not None and running.local_management:
        return "UNMANAGED", "This gateway is configured by hand; adopt its configuration and set management = managed."
    now = [said for said in facts.said if said.generation == facts.generation]
    last = now[-1] if now else None
    if running is not None and running.pushed_hash.hex() == facts.wanted:
        if running.phase in SETTLED:
            return "IN_SYNC", "It runs what is wanted."
        if running.phase in ON_THE_WAY:
            return ON_THE_WAY[running.phase]
    if last is not None and last.phase in ON_THE_WAY:
        state, sentence = ON_THE_WAY[last.phase]
        return state, _with(sentence, last)
    if last is not None and last.phase in ENDED:
        state, sentence = ENDED[last.phase]
        return state, _with(sentence, last)
    earlier = next((s for s in reversed(facts.said) if s.hash == facts.wanted and s.phase in UNDONE), None)
    if earlier is not None and last is None and 0 < earlier.reason < CONTENT:
        state, sentence = ENDED[earlier.phase]
        return state, _with(f"The same content was offered as generation {earlier.generation}. {sentence}", earlier)
    if last is not None and last.phase in SETTLED:
        if running is not None and running.pushed_hash.hex() != facts.wanted:
            return "DRIFTED", "It had this configuration and runs another one now."
        return "APPLIED", "The gateway keeps it; its next word will confirm that it runs."
    if facts.offered == facts.generation:
        return "OFFERED", "It was sent and not yet answered."
    if not facts.online:
        return "PENDING", "The gateway can't be reached; it gets this when it connects."
    return "PENDING", "It is about to be offered."


def word(said: Said, wanted: int) -> State:
    """What one older statement amounts to now: what was on its way when a newer one came was superseded."""
    if said.phase in ON_THE_WAY:
        return "SUPERSEDED" if said.generation < wanted else ON_THE_WAY[said.phase][0]
    return ENDED[said.phase][0] if said.phase in ENDED else "APPLIED"


def _with(sentence: str, said: Said) -> str:
    where = f" (at {said.pointer})" if said.pointer else ""
    return f"{sentence.rstrip('.')}: {said.text}{where}." if said.text else f"{sentence.rstrip('.')}."


AT_ONCE = 500


def said_by(connection: Connection, gateways: Sequence[str]) -> dict[str, list[Said]]:
    """What each said of its configurations, oldest first; of any number of gateways."""
    found: dict[str, list[Said]] = {}
    for first in range(0, len(gateways), AT_ONCE):
        some = config_status.c.gateway.in_(gateways[first : first + AT_ONCE])
        for row in connection.execute(select(config_status).where(some).order_by(config_status.c.id)):
            said = Said(
                generation=row.generation,
                hash=bytes(row.hash).hex(),
                phase=row.phase,
                reason=row.reason,
                pointer=row.pointer,
                text=row.text,
                retry_at_ms=row.retry_at_ms,
                received_ms=row.received_ms,
            )
            found.setdefault(row.gateway, []).append(said)
    return found


class Statuses:
    """Reads the facts; synchronous."""

    def __init__(self, *, stores: Stores, clock: Clock) -> None:
        self._stores = stores
        self._clock = clock

    def facts(self, gateways: Sequence[str]) -> dict[str, Facts]:
        """Of at most some hundred gateways."""
        wanted = self._by_gateway(self._stores.business, config_desired, gateways)
        here = self._by_gateway(self._stores.journal, presence, gateways)
        offers = self._by_gateway(self._stores.journal, config_offer, gateways)
        with self._stores.journal.read() as connection:
            said = said_by(connection, gateways)
        found: dict[str, Facts] = {}
        for one in gateways:
            row, seen = wanted.get(one), here.get(one)
            running = wire.RunningConfig.FromString(seen.running) if seen is not None and seen.running else None
            found[one] = Facts(
                gateway=one,
                generation=row.generation if row is not None else 0,
                wanted=row.hash if row is not None else "",
                running=running,
                online=seen is not None and self._online(seen),
                offered=offers[one].generation if one in offers else 0,
                said=said.get(one, ()),
            )
        return found

    def _online(self, seen: Row[Any]) -> bool:
        return seen.left_ms is None and self._clock.now_ms() - seen.heard_ms < OFFLINE_AFTER_MS

    @staticmethod
    def _by_gateway(store: Any, table: Any, gateways: Sequence[str]) -> dict[str, Row[Any]]:
        with store.read() as connection:
            rows = connection.execute(select(table).where(table.c.gateway.in_(gateways))).all()
        return {row.gateway: row for row in rows}
