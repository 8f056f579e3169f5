"""Commands to devices: what was asked, by whom, and what became of it.

    waiting → sent → done | failed | expired | unsupported | uncertain
        expired: its time was over before any gateway saw it · unanswered: a day later there is no word yet

The row is the audit record: it is made before anything is sent, names who asked, and gets one result. `sent` is durable
before the message leaves, so what is still waiting was certainly never seen. A gateway's own book makes sending it
again harmless; numbers rise, so that a gateway can tell a replay of what it has forgotten.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection, Row, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from control_plane.clock import Clock
from control_plane.errors import Conflict, NotFound
from control_plane.fleet.rights import Caller
from control_plane.store.engine import Stores
from control_plane.store.tables import command, gateway, presence
from protos.comboio.v1 import link_pb2 as wire
from protos.commands import Write

MOST_OPEN = 100
AGAIN_FOR_MS = 24 * 3_600_000
"""After its time is over a command that was sent is sent on: the gateway then says what became of it."""
TRIES = 5
OPEN = ("waiting", "sent")
CommandRow = Row[Any]

log = structlog.get_logger("control_plane.fleet")


class Commands:
    """Synchronous, thread-safe."""

    def __init__(self, *, stores: Stores, clock: Clock) -> None:
        self._stores = stores
        self._clock = clock

    def ask(self, gateway_id: str, write: Write, *, ttl_s: int, key: str, caller: Caller) -> CommandRow:
        """Make it, to be sent at once; the same key of the same caller gives what was made of it before.

        Raises NotFound; Conflict when the key was another command's, or too many are open.
        """
        generation = self._generation(gateway_id)
        for _ in range(TRIES):
            try:
                with self._stores.business.write() as connection:
                    return self._asked(connection, gateway_id, write, ttl_s, key, caller, generation)
            except IntegrityError:  # somebody took the number, or this is a repetition sent at the same moment
                continue
        raise Conflict("Others are sending commands to this gateway at this moment. Try again.")

    def get(self, gateway_id: str, command_id: str) -> CommandRow:
        with self._stores.business.read() as connection:
            query = select(command).where(command.c.gateway == gateway_id, command.c.id == command_id)
            found = connection.execute(query).one_or_none()
        if found is None:
            raise NotFound(f"Gateway {gateway_id} was asked no command {command_id}.")
        return found

    def listed(
        self, gateway_id: str, *, limit: int, before: tuple[int, str] | None = None, sensor: str | None = None
    ) -> Sequence[CommandRow]:
        """The newest first; `before`: older than (asked_ms, id)."""
        query = select(command).where(command.c.gateway == gateway_id)
        if sensor is not None:
            query = query.where(command.c.sensor == sensor)
        if before is not None:
            at_ms, id_ = before
            older = (command.c.asked_ms == at_ms) & (command.c.id < id_)
            query = query.where((command.c.asked_ms < at_ms) | older)
        query = query.order_by(command.c.asked_ms.desc(), command.c.id.desc()).limit(limit)
        with self._stores.business.read() as connection:
            return connection.execute(query).all()

    # --- making one ----------------------------------------------------------------------------------

    def _generation(self, gateway_id: str) -> int:
        """Of the configuration that runs there by its own word: under another one the sensor may be another device."""
        query = select(presence.c.running).where(presence.c.gateway == gateway_id)
        with self._stores.journal.read() as connection:
            said = connection.execute(query).scalar_one_or_none()
        running = wire.RunningConfig.FromString(said) if said else wire.RunningConfig()
        return 0 if running.local_management else min(running.generation, (1 << 63) - 1)

    def _asked(
        self,
        connection: Connection,
        gateway_id: str,
        write: Write,
        ttl_s: int,
        key: str,
        caller: Caller,
        generation: int,
    ) -> CommandRow:
        mine = command.c.gateway == gateway_id
        same = (mine, command.c.caller == caller.id, command.c.idempotency_key == key)
        known = connection.execute(select(command).where(*same)).one_or_none()
        said = _said(write)
        if known is not None:
            before = {name: getattr(known, name) for name in said}
            if before != said or known.expires_ms - known.asked_ms != ttl_s * 1000:
                raise Conflict("This Idempotency-Key was given to another command. Nothing was sent.")
            return known
        there = select(gateway.c.id).where(gateway.c.id == gateway_id, gateway.c.retired_ms.is_(None))
        if connection.execute(there).one_or_none() is None:
            raise NotFound(f"There is no gateway {gateway_id}, or it was retired.")
        open_ = select(func.count()).select_from(command).where(mine, command.c.state.in_(OPEN))
        if connection.execute(open_).scalar_one() >= MOST_OPEN:
            raise Conflict(f"{MOST_OPEN} commands to this gateway wait for a result already.")
        now = self._clock.now_ms()
        last = connection.execute(select(func.max(command.c.number)).where(mine)).scalar() or 0
        row = {
            "id": f"cmd-{secrets.token_hex(8)}",
            "gateway": gateway_id,
            "number": max(last + 1, now),  # of a restored server too they go on rising
            **said,
            "generation": generation,
            "asked_ms": now,
            "expires_ms": now + ttl_s * 1000,
            "asked_by": caller.name,
            "caller": caller.id[:80],
            "idempotency_key": key,
            "state": "waiting",
            "until_ms": now + ttl_s * 1000 + AGAIN_FOR_MS,
            "text": "",
        }
        connection.execute(insert(command).values(row))
        log.info("command.asked", id=row["id"], gateway=gateway_id, sensor=write.sensor, quantity=write.quantity)
        return connection.execute(select(command).where(command.c.id == row["id"])).one()


def end(
    connection: Connection, gateway_id: str, command_id: str, *, state: str, text: str, result: str | None, now_ms: int
) -> bool:
    """Record the one result; whether this was it."""
    row = (command.c.gateway == gateway_id, command.c.id == command_id, command.c.ended_ms.is_(None))
    ended = update(command).where(*row).values(state=state, text=text, result=result, ended_ms=now_ms, until_ms=None)
    return connection.execute(ended).rowcount > 0


def state_word(state: int) -> str:
    return wire.CommandState.Name(wire.CommandState.ValueType(state)).removeprefix("COMMAND_").lower()


def _said(write: Write) -> dict[str, str | None]:
    """As its row has it."""
    return {
        "sensor": write.sensor,
        "quantity": write.quantity,
        "value": msgspec.json.encode(write.value).decode(),
        "expect": None if write.expect is None else msgspec.json.encode(write.expect).decode(),
    }
