"""Results of commands, from what gateways told to the commands they belong to; and commands whose time is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection, Row, and_, or_, select, update

from control_plane.clock import Clock
from control_plane.fleet.commands import end, state_word
from control_plane.store.engine import Stores
from control_plane.store.tables import command, command_result, reconcile_cursor
from control_plane.store.upsert import keep_first, upsert
from protos.commands import Outcome

CURSOR = "commands"
MOST = 500
MISSED_EVERY_MS = 10_000

log = structlog.get_logger("control_plane.fleet")


@dataclass(slots=True)
class Outcomes:
    """`step` is a loop of the worker. A result and the cursor past it are one commit.

    What gateways told may be projected anew, and then counts from the start: commands without a result are looked up by
    their name now and then.
    """

    stores: Stores
    clock: Clock
    _looked_ms: int = 0

    def step(self) -> bool:
        """True if there may be more at once."""
        self._time_over()
        self._missed()
        with self.stores.business.read() as connection:
            query = select(reconcile_cursor.c.position).where(reconcile_cursor.c.name == CURSOR)
            position = connection.execute(query).scalar_one_or_none() or 0
        with self.stores.telemetry.read() as connection:
            news = select(command_result).where(command_result.c.position > position)
            rows = connection.execute(news.order_by(command_result.c.position).limit(MOST)).all()
        if not rows:
            return False
        with self.stores.business.write() as connection:
            for row in rows:
                self._record(connection, row)
            upsert(connection, reconcile_cursor, [{"name": CURSOR, "position": rows[-1].position}])
        return len(rows) == MOST

    def _record(self, connection: Connection, row: Row[Any]) -> None:
        state, said = state_word(row.state), msgspec.json.decode(row.result, type=Outcome)
        if said.at_box:
            keep_first(connection, command, _at_box(row, said, state))
            return
        told = {"state": state, "text": row.text, "result": row.result, "now_ms": row.recorded_ms}
        if end(connection, row.gateway, row.command, **told):
            log.info("command.ended", id=row.command, gateway=row.gateway, state=state, text=row.text)

    def _missed(self) -> None:
        now = self.clock.now_ms()
        if now - self._looked_ms < MISSED_EVERY_MS:
            return
        self._looked_ms = now
        without = (command.c.ended_ms.is_(None), command.c.sent_ms.is_not(None))
        newest = select(command.c.id).where(*without).order_by(command.c.asked_ms.desc()).limit(MOST)
        with self.stores.business.read() as connection:
            ids = list(connection.execute(newest).scalars())
        if not ids:
            return
        with self.stores.telemetry.read() as connection:
            rows = connection.execute(select(command_result).where(command_result.c.command.in_(ids))).all()
        if rows:
            with self.stores.business.write() as connection:
                for row in rows:
                    self._record(connection, row)

    def _time_over(self) -> None:
        """What no gateway saw in its time has expired; what one may have seen is unanswered after a while."""
        now = self.clock.now_ms()
        never = (command.c.until_ms.is_not(None), command.c.state == "waiting", command.c.expires_ms <= now)
        silent = (command.c.until_ms <= now, command.c.state == "sent")
        with self.stores.business.read() as connection:
            query = select(command.c.id).where(command.c.until_ms.is_not(None), _any(never, silent)).limit(1)
            if connection.execute(query).first() is None:
                return
        with self.stores.business.write() as connection:
            text = "the gateway was not connected while its time lasted"
            ended = {"state": "expired", "text": text, "ended_ms": now, "until_ms": None}
            connection.execute(update(command).where(*never).values(ended))
            text = "the gateway has not said what became of it"
            connection.execute(update(command).where(*silent).values(state="unanswered", text=text, until_ms=None))


def _any(*which: tuple[Any, ...]) -> Any:
    return or_(*(and_(*one) for one in which))


def _at_box(row: Row[Any], said: Outcome, state: str) -> dict[str, Any]:
    return {
        "id": row.command,
        "gateway": row.gateway,
        "number": None,
        "sensor": said.sensor[:64],
        "quantity": said.quantity[:120],
        "value": msgspec.json.encode(said.value).decode(),
        "generation": 0,
        "asked_ms": row.recorded_ms,
        "expires_ms": row.recorded_ms,
        "asked_by": "",
        "caller": "",
        "idempotency_key": row.command,
        "state": state,
        "text": row.text,
        "result": row.result,
        "ended_ms": row.recorded_ms,
    }
