"""Delivers one destination's outbox, key by key.

States of a row: pending → inflight → delivered, or retry (it surely did not arrive), unknown (it may have), parked (it
never will as it is). `inflight` and the attempt are committed before the first byte leaves; so a relay that was killed
leaves `inflight`, which its successor reads as unknown. An unknown row rests for the destination's grace, so that the
old request has either taken effect or died; then the far side is asked, or the event is sent again under its id.

Keys run beside each other, each at its own pace; their bookkeeping is gathered into common transactions.

Nothing is begun while the destination is in maintenance, while the breaker is open or its credentials are refused; when
nobody can have the event yet, the attempt is not counted. In shadow mode nothing is sent: the far side is asked what it
has, and the row is `shadowed` with the answer; keys that were cut over are delivered.
"""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import Any

import structlog

from control_plane.clock import Clock
from control_plane.errors import Fenced
from control_plane.relay import retry
from control_plane.relay.books import Answer, Ask, Begun, Books, Finished, Lost, Released, Turn
from control_plane.relay.breaker import FAILURES, Breaker
from control_plane.relay.connector import Connector, Found, Outcome, Parcel
from control_plane.relay.health import Health, Standing
from control_plane.relay.lease import MARGIN_MS, Lease, claim
from control_plane.relay.maintenance import Calendar
from control_plane.relay.pace import Pace
from control_plane.settings import Destination
from control_plane.store.engine import Store

STEP_S = 0.25
CLOSE_S = 3.0

log = structlog.get_logger("control_plane.relay")


class Deliverer:
    """One destination: `step` again and again, then `close`. Several relays may run at once, keys are leased."""

    def __init__(
        self,
        *,
        store: Store,
        destination: Destination,
        connector: Connector,
        clock: Clock,
        rng: random.Random | None = None,
    ) -> None:
        self._store = store
        self._destination = destination
        self._connector = connector
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - spreads load
        self._books = Books(store, destination)
        self._breaker = Breaker(in_a_row=destination.breaker_failures)
        self._pace = Pace(per_s=destination.per_s, most=destination.concurrency)
        self._calendar = Calendar(destination.maintenance, destination.timezone)
        self._health = Health(store, destination.name)
        self._refused_until_ms = 0
        self._refused = self._failing = ""
        self._running: set[asyncio.Task[None]] = set()
        self._waiting: list[tuple[Turn, asyncio.Future[Answer]]] = []
        self._bookkeeping: asyncio.Task[None] | None = None
        self._closing = False
        self.delivered = self.attempts = 0

    async def step(self) -> bool:
        """Start on the keys that are due, and wait a moment for any to end. True while keys are being worked on.

        Raises what a key's work raised; that key's lease then runs out by itself.
        """
        now_ms = self._clock.now_ms()
        free = self._free(now_ms)
        found = self._standing(now_ms)
        if self._health.is_news(found, now_ms):
            await asyncio.to_thread(self._health.say, found, now_ms)
        if free > 0:
            for lease in await asyncio.to_thread(claim, self._store, self._destination, now_ms=now_ms, limit=free):
                self._running.add(asyncio.create_task(self._key(lease), name=f"relay.{lease.key}"))
        if not self._running:
            return False
        done, self._running = await asyncio.wait(self._running, timeout=STEP_S, return_when=asyncio.FIRST_COMPLETED)
        errors = [error for task in done if (error := task.exception()) is not None]
        if errors:
            raise errors[0]
        return True

    def _free(self, now_ms: int) -> int:
        """How many more keys may be taken."""
        if self._destination.mode == "paused" or now_ms < self._not_before_ms(now_ms):
            return 0
        most = 1 if self._breaker.state(now_ms) == "half_open" else self._pace.at_once
        return most - len(self._running)

    def _not_before_ms(self, now_ms: int) -> int:
        return max(self._refused_until_ms, self._breaker.open_until_ms or 0, self._calendar.until_ms(now_ms) or 0)

    def _standing(self, now_ms: int) -> Standing:
        breaker, maintenance_ms = self._breaker.state(now_ms), self._calendar.until_ms(now_ms)
        at_once = self._pace.at_once
        if self._destination.mode == "paused":
            return Standing("paused", None, "paused in its file", at_once)
        if maintenance_ms is not None:
            return Standing("maintenance", maintenance_ms, "its maintenance calendar says so", at_once)
        if now_ms < self._refused_until_ms:
            return Standing("refused", self._refused_until_ms, self._refused, at_once)
        if breaker != "closed":
            return Standing(breaker, self._breaker.open_until_ms, self._failing, at_once)
        return Standing("running", None, "", at_once)

    async def close(self) -> None:
        """Let the rows under way end, for a moment; what is cut off then is of unknown outcome, as after a kill."""
        self._closing = True
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=CLOSE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
        if self._bookkeeping is not None:
            await asyncio.gather(self._bookkeeping, return_exceptions=True)

    # --- one key ---------------------------------------------------------------------------------------

    async def _key(self, lease: Lease) -> None:
        """Row after row until none is due, or the key is somebody else's."""
        turn = Turn(lease)
        while True:
            answer = await self._turn(turn)
            if isinstance(answer, Lost):
                log.warning("lease.lost", dest=lease.dest, key=lease.key)
            if isinstance(answer, Lost | Released):
                return
            turn = await (self._ask(lease, answer) if isinstance(answer, Ask) else self._send(lease, answer))

    async def _ask(self, lease: Lease, ask: Ask) -> Turn:
        found = await self._found(ask.row.ext_ref)
        if not ask.live:
            return Turn(lease, Finished(ask.row.seq, _shadowed(found)))
        if not found.present:
            return Turn(lease, asked=ask.row.seq)
        values = {"delivered_ms": self._clock.now_ms(), "erp_id": found.erp_id, "last_class": "ADOPTED"}
        return Turn(lease, Finished(ask.row.seq, {"state": "delivered", **values}))

    async def _send(self, lease: Lease, begun: Begun) -> Turn:
        row = begun.row
        if self._clock.now_ms() - begun.sent_ms >= MARGIN_MS:
            raise Fenced(f"{row.dest}: stopped for so long that {row.key} may have another relay by now")
        if not begun.live:
            found = _shadowed(await self._found(row.ext_ref))
            looked = {"took_ms": self._clock.now_ms() - begun.sent_ms, "outcome": found["last_class"]}
            return Turn(lease, Finished(row.seq, found, begun.attempt_id, {**looked, "status": None, "error": None}))
        outcome = await self._delivered(Parcel(row.event_id, row.ext_ref, bytes(row.body), row.attempt + 1))
        self.attempts += 1
        now_ms = self._clock.now_ms()
        self._pace.took(outcome.class_, now_ms - begun.sent_ms, now_ms)
        counts = self._breaker.took(row.key, outcome.class_, now_ms)
        if outcome.class_ in FAILURES:
            self._failing = outcome.error or outcome.class_
        verdict = self._verdict(row.attempt, outcome, now_ms, counts=counts)
        self._tell(row, verdict["state"], outcome)
        tried = {
            "took_ms": now_ms - begun.sent_ms,
            "outcome": outcome.class_,
            "status": outcome.status,
            "error": outcome.error,
        }
        values = {"last_class": outcome.class_, "last_error": outcome.error, **verdict}
        return Turn(lease, Finished(row.seq, values, begun.attempt_id, tried))

    async def _found(self, ext_ref: str) -> Found:
        try:
            return await self._connector.find(ext_ref)
        except Exception:
            log.exception("connector.failed", dest=self._destination.name, ext_ref=ext_ref)
            return Found(None)

    async def _delivered(self, parcel: Parcel) -> Outcome:
        try:
            return await self._connector.deliver(parcel)
        except Exception as error:  # a connector raises nothing; where it does, nobody knows what was sent
            log.exception("connector.failed", dest=self._destination.name, event_id=parcel.event_id)
            return Outcome("AMBIGUOUS", error=f"{type(error).__name__}: {error}")

    def _tell(self, row: Any, state: str, outcome: Outcome) -> None:
        if state == "delivered":
            self.delivered += 1
            return
        level = log.error if state == "parked" else log.warning
        level("delivery." + state, dest=row.dest, event_id=row.event_id, why=outcome.error)

    def _verdict(self, attempts_before: int, outcome: Outcome, now_ms: int, *, counts: bool) -> dict[str, Any]:
        if outcome.class_ == "OK":
            return {"state": "delivered", "delivered_ms": now_ms, "erp_id": outcome.erp_id}
        if outcome.class_ in {"PERMANENT", "GONE"}:
            return {"state": "parked"}
        if outcome.class_ == "AUTH":  # a wrong secret is the destination's trouble, not this event's
            self._refused_until_ms = max(self._refused_until_ms, now_ms + round(retry.AUTH_PAUSE_S * 1000))
            self._refused = outcome.error or ""
            return {"state": "retry", "attempt": attempts_before, "next_at_ms": self._refused_until_ms}
        wait = retry.delay_s(
            self._destination.retry, attempts_before + 1, self._rng, retry_after_s=outcome.retry_after_s
        )
        uncounted = {} if counts else {"attempt": attempts_before}
        if wait is None:
            if counts:
                return {"state": "parked"}
            wait = self._destination.retry[-1] if self._destination.retry else retry.AUTH_PAUSE_S
        if outcome.class_ == "AMBIGUOUS":
            rest_ms = round(max(wait, self._destination.grace_s) * 1000)
            return {"state": "unknown", "next_at_ms": now_ms + rest_ms, **uncounted}
        return {"state": "retry", "next_at_ms": now_ms + round(wait * 1000), **uncounted}

    # --- common transactions ---------------------------------------------------------------------------

    async def _turn(self, turn: Turn) -> Answer:
        """Book it together with whatever other keys bring while the transaction before is under way."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, future))
        if self._bookkeeping is None or self._bookkeeping.done():
            self._bookkeeping = asyncio.create_task(self._keep_books(), name=f"relay.{turn.lease.dest}.books")
        return await future

    async def _keep_books(self) -> None:
        while self._waiting:
            some, self._waiting = self._waiting, []
            turns = [turn for turn, _ in some]
            now_ms = self._clock.now_ms()
            try:
                answers = await asyncio.to_thread(
                    self._books.turn,
                    turns,
                    now_ms=now_ms,
                    not_before_ms=self._not_before_ms(now_ms),
                    closing=self._closing,
                    wait_ms=partial(self._pace.wait_ms, now_ms),
                )
            except BaseException as error:
                for _, future in some:
                    if not future.done():
                        future.set_exception(error)
                if isinstance(error, asyncio.CancelledError):
                    raise
            else:
                for (_, future), answer in zip(some, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)


def _shadowed(found: Found) -> dict[str, Any]:
    """What a row becomes that was not sent: whether the far side has it all the same."""
    has = {True: "SHADOW_PRESENT", False: "SHADOW_ABSENT", None: "SHADOW_UNKNOWN"}[found.present]
    return {"state": "shadowed", "erp_id": found.erp_id, "last_class": has}
