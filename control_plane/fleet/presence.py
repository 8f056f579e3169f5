"""How each gateway stands: what the registry, its stream, its heartbeats and its data say together.

A status never claims more than is known: an open stream without a word for a while is `late`, then `offline`, and a
gateway that catches up on what it kept is `late` although it is connected.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec
from google.protobuf.message import DecodeError
from sqlalchemy import Connection, Select, Table, func, select

from control_plane.clock import Clock
from control_plane.fleet.status import WAYS, Facts, State, Way, judge, said_by, settled
from control_plane.store.engine import Stores
from control_plane.store.tables import (
    certificate,
    clone,
    config_desired,
    config_offer,
    config_status,
    gateway,
    gateway_index,
    presence,
    state,
)
from protos.comboio.v1 import link_pb2 as wire

QUIET_MS = 90_000
"""Gateways say something every half minute."""
GONE_MS = 600_000
BLINK_MS = 60_000
"""A stream that ended is expected back for so long."""
BEHIND_MS = 120_000
BEHIND_BATCHES = 30
"""How far behind is `late`, where the gateway does not say how old its oldest batch is."""
NO_DATA_MS = 900_000
NO_DATA_PERIODS = 3
"""Of the quickest series: who reads once an hour is not late after a quarter of one."""


# Rows are taken apart by position: there may be tens of thousands, and a name costs more than a value.
KNOWN = tuple(gateway.c[name] for name in ("id", "name", "asset", "hardware", "serial", "created_ms", "retired_ms"))
HELD = select(state.c.gateway, state.c.updated_ms, state.c.readings, gateway_index.c.expected_ms).outerjoin_from(
    state, gateway_index, gateway_index.c.gateway == state.c.gateway
)
SAID = tuple(
    presence.c[name]
    for name in ("gateway", "connected_ms", "heard_ms", "left_ms", "why", "version", "heartbeat", "running", "paced")
)
PAUSED = select(clone.c.gateway, clone.c.since_ms).where(clone.c.released_ms.is_(None))


class Status(StrEnum):
    ONLINE = "online"
    LATE = "late"
    OFFLINE = "offline"
    NEVER = "never"
    RETIRED = "retired"


class Why(StrEnum):
    """What a status rests on; words for people are the pages' business."""

    FINE = "fine"
    BEHIND = "behind"
    NO_DATA = "no_data"
    QUIET = "quiet"
    LEFT = "left"
    NEVER = "never"
    RETIRED = "retired"
    CLONE = "clone"


class Presence(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What its newest stream said. Times in ms since 1970; what was never said is None."""

    connected_ms: int
    heard_ms: int
    left_ms: int | None
    left_why: str
    version: str
    backlog_batches: int | None = None
    backlog_bytes: int | None = None
    backlog_oldest_ms: int | None = None
    clock_source: int | None = None
    clock_err_ms: int | None = None
    sensors_silent: int = 0
    running: wire.RunningConfig | None = None
    paced: str = ""
    """Why ingest slows it down; empty: it does not."""


class Standing(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One gateway of the registry. `data_ms`: when its newest readings were projected here."""

    id: str
    name: str
    asset: str | None
    hardware: str
    serial: str
    created_ms: int
    retired_ms: int | None
    certificate_expires_ms: int | None
    presence: Presence | None
    data_ms: int | None
    readings: int
    paused_ms: int | None
    """Since when nothing is taken of it, because two boxes use its identity."""
    status: Status
    why: Why
    configuration: State | None
    """None where nothing is wanted of it and nothing is known to run."""

    @property
    def way(self) -> Way | None:
        return None if self.configuration is None else WAYS[self.configuration]


class Fleet:
    """Reads; synchronous, thread-safe."""

    def __init__(self, *, stores: Stores, clock: Clock) -> None:
        self._stores = stores
        self._clock = clock
        self._parsed: dict[str, tuple[tuple[Any, ...], Presence]] = {}

    def all(self) -> list[Standing]:
        """By name, then id; retired ones last."""
        return self._standings(_registry())

    def one(self, gateway_id: str) -> Standing | None:
        return next(iter(self.some([gateway_id])), None)

    def some(self, gateways: Sequence[str]) -> list[Standing]:
        """Of some hundred at most; whom the registry does not know is left out."""
        return self._standings(_registry().where(gateway.c.id.in_(gateways)), gateways)

    def cursor(self) -> tuple[object, ...]:
        """Changes whenever a standing may have, but for the mere passing of time."""
        with self._stores.journal.read() as connection:
            heard = connection.execute(
                select(func.max(presence.c.heard_ms), func.max(presence.c.left_ms), func.max(presence.c.connected_ms))
            ).one()
            offered = connection.execute(select(func.max(config_offer.c.offered_ms))).scalar()
            told = connection.execute(select(func.max(config_status.c.id))).scalar()
            paused = connection.execute(select(func.max(clone.c.since_ms), func.max(clone.c.released_ms))).one()
        with self._stores.telemetry.read() as connection:
            data = connection.execute(select(func.max(state.c.updated_ms))).scalar()
        with self._stores.business.read() as connection:
            known = connection.execute(select(func.count(), func.max(gateway.c.retired_ms)).select_from(gateway)).one()
            wanted = connection.execute(select(func.max(config_desired.c.change))).scalar()
        return (*heard, data, *known, offered, told, wanted, *paused)

    def _standings(self, registry: Select[Any], only: Sequence[str] | None = None) -> list[Standing]:
        now_ms = self._clock.now_ms()
        said, held = select(*SAID), HELD
        if only is not None:
            said, held = said.where(presence.c.gateway.in_(only)), held.where(state.c.gateway.in_(only))
        with self._stores.business.read() as connection:
            known = connection.execute(registry).all()
            expiries = {row[0]: row[1] for row in connection.execute(_expiries(only))}
            wanted = _by_gateway(connection, config_desired, "generation", "hash", only=only)
        with self._stores.journal.read() as connection:
            streams = self._streams(connection.execute(said).all(), whole=only is None)
            paused = {row.gateway: row.since_ms for row in connection.execute(PAUSED)}
            offered = _by_gateway(connection, config_offer, "generation", only=only)
            states = _configurations(connection, [row[0] for row in known], wanted, offered, streams)
        with self._stores.telemetry.read() as connection:
            data = {key: tuple(rest) for key, *rest in connection.execute(held)}
        return [
            _standing(
                row,
                expiries.get(row[0]),
                streams.get(row[0]),
                data.get(row[0], (None, 0, None)),
                states.get(row[0]),
                paused.get(row[0]),
                now_ms,
            )
            for row in known
        ]

    def _streams(self, rows: Sequence[Any], *, whole: bool) -> dict[str, Presence]:
        """Between two looks most gateways said nothing new: theirs need not be parsed again."""
        before, parsed = self._parsed, {}
        for gateway_id, *rest in rows:
            said, kept = tuple(rest), before.get(gateway_id)
            parsed[gateway_id] = kept if kept is not None and kept[0] == said else (said, _presence(*said))
        if whole:
            self._parsed = parsed  # one assignment: others may be looking
        return {gateway_id: presence_ for gateway_id, (_, presence_) in parsed.items()}


def _registry() -> Select[Any]:
    return select(*KNOWN).order_by(gateway.c.retired_ms.is_not(None), gateway.c.name, gateway.c.id)


def _expiries(only: Sequence[str] | None) -> Select[Any]:
    """Gateway and the end of its newest certificate that is not revoked; one pass is cheaper than one look for each."""
    valid = certificate.c.revoked_ms.is_(None)
    query = select(certificate.c.gateway, func.max(certificate.c.not_after_ms)).where(valid)
    if only is not None:
        query = query.where(certificate.c.gateway.in_(only))
    return query.group_by(certificate.c.gateway)


def _by_gateway(connection: Connection, table: Table, *columns: str, only: Sequence[str] | None) -> dict[str, Any]:
    query = select(table.c.gateway, *(table.c[name] for name in columns))
    if only is not None:
        query = query.where(table.c.gateway.in_(only))
    return {key: rest for key, *rest in connection.execute(query)}


def _configurations(
    connection: Connection,
    gateways: Sequence[str],
    wanted: dict[str, Any],
    offered: dict[str, Any],
    streams: dict[str, Presence],
) -> dict[str, State]:
    """How far each is from what is wanted of it; whoever is known to run or to be wanted something."""
    facts = {}
    for one in gateways:
        said, (generation, digest) = streams.get(one), wanted.get(one, (0, ""))
        if digest or (said is not None and said.running is not None):
            (sent,) = offered.get(one, (0,))
            running = None if said is None else said.running
            facts[one] = Facts(one, generation, digest, running, said is not None and said.left_ms is None, sent)
    open_ones = [one for one, fact in facts.items() if not settled(fact)]
    told = said_by(connection, open_ones)
    return {one: judge(fact._replace(said=told.get(one, ()))).state for one, fact in facts.items()}


def _presence(
    connected_ms: int,
    heard_ms: int,
    left_ms: int | None,
    why: str | None,
    version: str | None,
    heartbeat: bytes | None,
    running: bytes | None,
    paced: str | None,
) -> Presence:
    return Presence(
        connected_ms=connected_ms,
        heard_ms=heard_ms,
        left_ms=left_ms,
        left_why=why or "",
        version=version or "",
        running=_running(running),
        paced=paced or "",
        **({} if heartbeat is None else _heartbeat(bytes(heartbeat))),
    )


def _heartbeat(body: bytes) -> dict[str, Any]:
    try:
        beat = wire.Heartbeat.FromString(body)
    except DecodeError:
        return {}
    said: dict[str, Any] = {"sensors_silent": beat.sensors_silent}
    if beat.HasField("backlog"):
        said["backlog_batches"], said["backlog_bytes"] = beat.backlog.batches, beat.backlog.bytes
        said["backlog_oldest_ms"] = beat.backlog.oldest_wall_ms or None
    if beat.HasField("clock"):
        said["clock_source"], said["clock_err_ms"] = beat.clock.source, beat.clock.err_ms
    return said


def _running(body: bytes | None) -> wire.RunningConfig | None:
    try:
        return None if body is None else wire.RunningConfig.FromString(bytes(body))
    except DecodeError:
        return None


def _standing(
    row: Any,
    expires_ms: int | None,
    said: Presence | None,
    held: tuple[Any, ...],
    configured: State | None,
    paused_ms: int | None,
    now_ms: int,
) -> Standing:
    gateway_id, name, asset, hardware, serial, created_ms, retired_ms = row
    data_ms, readings, expected_ms = held
    status, why = judged(retired_ms, paused_ms, said, data_ms, expected_ms, now_ms)
    return Standing(
        id=gateway_id,
        name=name,
        asset=asset,
        hardware=hardware,
        serial=serial,
        created_ms=created_ms,
        retired_ms=retired_ms,
        certificate_expires_ms=expires_ms,
        presence=said,
        data_ms=data_ms,
        readings=readings,
        paused_ms=paused_ms,
        status=status,
        why=why,
        configuration=None if retired_ms is not None else configured,
    )


def judged(
    retired_ms: int | None,
    paused_ms: int | None,
    said: Presence | None,
    data_ms: int | None,
    expected_ms: int | None,
    now_ms: int,
) -> tuple[Status, Why]:
    """Pure; `fleet/search.py` says the same in SQL."""
    if retired_ms is not None:
        return Status.RETIRED, Why.RETIRED
    if paused_ms is not None:
        return Status.OFFLINE, Why.CLONE
    if said is None:
        return Status.NEVER, Why.NEVER
    if said.left_ms is not None:
        return (Status.LATE if now_ms - said.left_ms < BLINK_MS else Status.OFFLINE), Why.LEFT
    quiet_ms = now_ms - said.heard_ms
    if quiet_ms > QUIET_MS:
        return (Status.LATE if quiet_ms < GONE_MS else Status.OFFLINE), Why.QUIET
    if _behind(said, now_ms):
        return Status.LATE, Why.BEHIND
    silence_ms = max(NO_DATA_MS, NO_DATA_PERIODS * (expected_ms or 0))
    if now_ms - max(said.connected_ms, data_ms or 0) > silence_ms:
        return Status.LATE, Why.NO_DATA
    return Status.ONLINE, Why.FINE


def _behind(said: Presence, now_ms: int) -> bool:
    if not said.backlog_batches:
        return False
    if said.backlog_oldest_ms is not None:
        return now_ms - said.backlog_oldest_ms > BEHIND_MS
    return said.backlog_batches >= BEHIND_BATCHES
