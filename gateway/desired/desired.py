"""The device's side of configuration: one revision at a time is staged, checked, applied, proven and committed.

    offer → STAGED → REJECTED | READY → APPLYING → PROBATION → APPLIED
                                            any failure or silence → ROLLING_BACK → ROLLED_BACK | FAILED

Invariants
1. Each transition is durable before it takes effect, so a kill at any instant is answered by the next start: staged
   and ready go on, applying and probation get one more start with what is left of their probation, a second one that
   was not ended cleanly reverts, rolling back goes on.
2. What was committed stays on disk until its successor is committed.
3. The newest generation wins; an older one is a replay and refused. A newer one displaces a trial only after it was
   found good itself.
4. The same content twice changes nothing.
5. Content that was undone is not tried again, whatever its generation; what failed for a reason of the moment may be.

What applying costs. Sensors are stopped and built anew, which takes as long as their buses need to let go; buffer and
(unless its settings changed) uplink run on. Rows taken before are kept. A read under way at the stop is in a gap
record of its driver; reads that fell due between stop and start were never asked for: the next row follows the last
one, as after a clean stop of the program, and only a period that was missed shows, in completeness, as not received.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec
import structlog

from gateway.clock import Clock
from gateway.desired import offers
from gateway.desired.probation import Watch, length_s, windows
from gateway.desired.state import QUARANTINE_LIMIT, Desk, Outcome, Revision, State, Trial
from gateway.desired.statements import Statements
from gateway.errors import Misconfigured
from protos.comboio.v1 import link_pb2 as wire
from protos.config import GatewayConfig, canonical, digest, from_json
from protos.strict import DocumentError, pointed

TICK_S = 0.25
PERSIST_EVERY_S = 5.0
PROBATION_S = 60.0
RETRY_S, RETRY_MAX_S = 300.0, 21_600.0
STARTS = 2
CONTENT = 100
"""Reasons below speak of the content (see ConfigReason)."""
PHASES = {
    "staged": wire.CONFIG_STAGED,
    "ready": wire.CONFIG_READY,
    "applying": wire.CONFIG_APPLYING,
    "probation": wire.CONFIG_PROBATION,
    "rolling_back": wire.CONFIG_ROLLING_BACK,
}

log = structlog.get_logger("gateway.desired")


class Site(Protocol):
    """The parts that a configuration decides; the daemon's."""

    async def switch(self, config: GatewayConfig | None) -> None:
        """Stop what runs and start under `config`, None: no sensors. Raises Misconfigured; then what ran runs on."""

    def delivered(self) -> Mapping[str, int]:
        """Per sensor a number that rises with each row its driver hands over; 0 before the first since it was built."""

    def connected(self) -> bool:
        """The uplink, as it is configured now, has reached the control plane."""

    def carrier(self) -> bool:
        """There is a network below the uplink."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """What enrolment fixed: to whom an offer must be addressed, and by which key it must be signed."""

    gateway: str
    config_key: bytes


class Desired:
    """`first` (and `not_started`) before parts are built, `run` supervised, `paused` at a clean stop."""

    def __init__(
        self,
        *,
        desk: Desk,
        local: GatewayConfig,
        pinned: Callable[[], Pinned],
        check: Callable[[GatewayConfig], list[str]],
        clock: Clock,
    ) -> None:
        self._desk = desk
        self._local = local
        self._pinned = pinned
        self._check = check
        self._clock = clock
        self._managed = local.management == "managed"
        self._statements = Statements()
        self._offer: wire.ConfigOffer | None = None
        self._wake = asyncio.Event()
        self._current: tuple[Revision | None, GatewayConfig | None] = (None, local)
        self._watch = Watch(delivered=dict, now_ms=clock.mono_ms)
        self._looked_ms = clock.mono_ms()
        self._persisted_left_s = 0.0

    # --- starting ------------------------------------------------------------------------------------

    def first(self) -> GatewayConfig | None:
        """The document to start under. Durable: this start of a trial is counted before it happens."""
        state = self._desk.state
        trial = state.trial
        if self._managed and trial is not None and trial.phase != "rolling_back":
            if trial.starts >= STARTS:
                text = "the gateway ended twice under this configuration"
                self._desk.save(_replaced(state, trial=_undone(trial, wire.CONFIG_REASON_CRASHED, text)))
            else:
                self._desk.save(_replaced(state, trial=_with(trial, starts=trial.starts + 1)))
                self._persisted_left_s = trial.left_s
        return self._chosen()

    def not_started(self, error: Misconfigured) -> GatewayConfig | None:
        """Parts can't be built under what `first` said: what to start under instead.

        Raises `error` when that was the hand-written document and nothing else is to be had.
        """
        state = self._desk.state
        log.error("configuration.not_started", why=str(error))
        if not self._managed or self._current[1] is None:
            raise error
        if state.trial is not None and state.trial.phase != "rolling_back":
            undone = _undone(state.trial, wire.CONFIG_REASON_NOT_STARTED, str(error))
            self._desk.save(_replaced(state, trial=undone))
            return self._chosen()
        if self._current[0] is None and state.trial is None:
            raise error
        self._current = (None, None)
        self._desk.save(self._failed(state, str(error)))
        return None

    def _chosen(self) -> GatewayConfig | None:
        """Trial, committed or hand-written document, read from disk."""
        state = self._desk.state
        if not self._managed:
            self._current = (None, self._local)
            return self._local
        trial = state.trial
        chosen = state.committed
        if trial is not None and trial.phase != "rolling_back":
            chosen = Revision(generation=trial.generation, hash=trial.hash)
        self._current = (chosen, None)
        try:
            self._current = (chosen, self._local if chosen is None else self._read(chosen.hash))
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            self._current = (chosen, self._local)
            return self.not_started(Misconfigured(f"the stored configuration can't be read: {error}"))
        return self._current[1]

    def _read(self, name: str) -> GatewayConfig:
        return self.effective(from_json(self._desk.document(name)))

    def effective(self, pushed: GatewayConfig) -> GatewayConfig:
        """The pushed document; only where it names no server, the one this box was started with stays."""
        if pushed.uplink.server:
            return pushed
        uplink = msgspec.structs.replace(pushed.uplink, server=self._local.uplink.server)
        return msgspec.structs.replace(pushed, uplink=uplink)

    # --- for the uplink ------------------------------------------------------------------------------

    def running(self) -> wire.RunningConfig:
        """What runs now: the truth by which the control plane judges."""
        state, (revision, config) = self._desk.state, self._current
        phase = wire.CONFIG_IN_SYNC if config is not None else wire.CONFIG_FAILED
        if self._managed and state.trial is not None:
            phase = wire.ConfigPhase.ValueType(PHASES[state.trial.phase])
        return wire.RunningConfig(
            generation=state.generation if self._managed else 0,
            pushed_hash=bytes.fromhex(revision.hash) if revision and config is not None else b"",
            local_hash=digest(canonical(self._local)),
            local_management=not self._managed,
            phase=phase,
        )

    def last_rejection(self) -> str:
        """Why the last offer was refused or undone; empty if it was not."""
        last = self._desk.state.last
        undone = (wire.CONFIG_REJECTED, wire.CONFIG_ROLLED_BACK, wire.CONFIG_FAILED)
        if last is None or last.phase not in undone:
            return ""
        return f"{last.pointer}: {last.text}" if last.pointer else last.text

    def effective_config(self) -> wire.EffectiveConfig:
        """The document that runs, whole."""
        running, (revision, config) = self.running(), self._current
        body = canonical(config) if config is not None else b""
        if revision is not None and config is not None:
            with contextlib.suppress(OSError, ValueError):
                body = self._desk.document(revision.hash)  # as pushed, without what was filled in here
        return wire.EffectiveConfig(pushed_hash=running.pushed_hash, local_hash=running.local_hash, body=body)

    def heard(self) -> AsyncIterator[list[wire.ConfigStatus]]:
        """See `Statements.heard`."""
        return self._statements.heard()

    def offered(self, offer: wire.ConfigOffer) -> None:
        """Take an offer; never waits. The newest one counts."""
        if not self._managed:
            text = "this gateway is configured by hand (management = local)"
            self._say(_outcome(offer, wire.CONFIG_REJECTED, wire.CONFIG_REASON_LOCALLY_MANAGED, text=text))
        elif self._offer is None or offer.generation >= self._offer.generation:
            self._offer = offer
            self._wake.set()

    # --- running -------------------------------------------------------------------------------------

    async def run(self, site: Site) -> None:
        """Bring the box to the newest offer, for ever; ends only by cancellation."""
        if not self._managed:
            await asyncio.Event().wait()
        self._watch.delivered = site.delivered
        self._looked_ms = self._clock.mono_ms()
        self._resume()
        while True:
            self._watch.look()
            if self._offer is not None:
                offer, self._offer = self._offer, None
                await self._take(offer)
            await self._step(site)
            self._wake.clear()
            if self._offer is None:
                await _either(self._wake, TICK_S)

    def _resume(self) -> None:
        """Say again where things stand, for whoever did not hear it before the stop."""
        state = self._desk.state
        if state.trial is not None:
            self._say_phase(state.trial)
        elif state.last is not None:
            self._say(state.last)

    async def paused(self) -> None:
        """A clean stop is no failure of the configuration: it costs neither a start nor probation already served."""
        if self._managed and self._desk.state.trial is not None:
            await asyncio.to_thread(self._desk.change, _start_given_back)

    async def _step(self, site: Site) -> None:
        state = self._desk.state
        trial, waiting = state.trial, state.waiting
        if trial is not None and trial.phase == "rolling_back":
            await self._revert(site, trial)
        elif waiting is not None and waiting.phase == "staged":
            await self._examine(waiting)
        elif waiting is not None:
            await self._apply(site, waiting)
        elif trial is not None and trial.phase == "applying":
            await self._begin_probation(trial)
        elif trial is not None:
            await self._judge(site, trial)

    # --- an offer ------------------------------------------------------------------------------------

    async def _take(self, offer: wire.ConfigOffer) -> None:
        state, pinned = self._desk.state, self._pinned()
        refused = offers.refusal(offer, gateway=pinned.gateway, config_key=pinned.config_key, state=state)
        if refused is not None:
            reason, text = refused
            log.warning("configuration.refused", generation=offer.generation, why=text)
            self._say(_outcome(offer, wire.CONFIG_REJECTED, reason, text=text))
            return
        name = offer.hash.hex()
        earlier = state.quarantined(name)
        if earlier is not None:  # in the words of then, so that also a control plane that forgot knows
            log.warning("configuration.quarantined", generation=offer.generation, why=earlier.text)
            self._say(msgspec.structs.replace(earlier, generation=offer.generation))
            return
        last = state.last
        same = last is not None and (last.generation, last.hash) == (offer.generation, name)
        if last is not None and same and last.retry_at_ms > self._clock.wall_ms():  # offered before that was heard
            self._say(last)
            return
        known = [one for one in (state.trial, state.waiting) if one is not None and one.hash == name]
        if known and known[-1].generation == offer.generation:
            self._say_phase(known[-1])
        elif state.committed is not None and state.committed.hash == name and state.trial is None:
            await self._same_again(offer)
        else:
            await self._stage(offer)

    async def _same_again(self, offer: wire.ConfigOffer) -> None:
        """The content that is committed already: only its generation is new."""
        revision = Revision(generation=offer.generation, hash=offer.hash.hex())
        last = _outcome(offer, wire.CONFIG_APPLIED)
        if self._desk.state.committed != revision:
            await self._save(committed=revision, waiting=None, last=last, retries=0)
        if self._current[0] is not None and self._current[0].hash == revision.hash:
            self._current = (revision, self._current[1])
        self._say(last)

    async def _stage(self, offer: wire.ConfigOffer) -> None:
        name = await asyncio.to_thread(self._desk.keep, offer.body)
        probation_s = float(offer.probation_s or PROBATION_S)
        staged = Trial(
            generation=offer.generation, hash=name, phase="staged", probation_s=probation_s, left_s=probation_s
        )
        await self._save(waiting=staged)
        self._say_phase(staged)

    async def _examine(self, staged: Trial) -> None:
        """The whole document, by what `check-config` would say of it."""
        try:
            config = self._read(staged.hash)
            reason, problems = wire.CONFIG_REASON_INVALID, self._check(config)
        except DocumentError as error:
            reason, problems = wire.CONFIG_REASON_UNREADABLE, error.problems
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            reason, problems = wire.CONFIG_REASON_UNREADABLE, [f"document: {error}"]
        if not problems:
            ready = _with(staged, phase="ready")
            await self._save(waiting=ready)
            self._say_phase(ready)
            return
        pointer, text = pointed(problems[0])
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        outcome = _outcome(staged, wire.CONFIG_REJECTED, reason, pointer=pointer, text=text + more)
        log.warning("configuration.rejected", generation=staged.generation, problems=problems)
        await self._reject(outcome)

    async def _reject(self, outcome: Outcome) -> None:
        state = self._desk.state
        quarantine = _with_quarantined(state, outcome) if outcome.reason < CONTENT else state.quarantine
        await self._save(waiting=None, last=outcome, quarantine=quarantine)
        await asyncio.to_thread(self._desk.tidy)
        self._say(outcome)

    # --- applying ------------------------------------------------------------------------------------

    async def _apply(self, site: Site, ready: Trial) -> None:
        before, displaced = self._current[1], self._desk.state.trial
        try:
            config = self._read(ready.hash)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            await self._reject(_outcome(ready, wire.CONFIG_REJECTED, wire.CONFIG_REASON_HASH, text=str(error)))
            return
        here = windows(config, ready.probation_s)
        demanded = self._watch.within(windows(before, ready.probation_s) if before else {}) & here.keys()
        known = {sensor.id for sensor in before.sensor} if before else set()
        required = {sensor.id for sensor in config.sensor if sensor.required and sensor.id not in known}
        if displaced is not None:
            demanded |= set(displaced.demanded) & here.keys()
            required |= set(displaced.required) & {sensor.id for sensor in config.sensor}
        trial = _with(
            ready,
            phase="applying",
            starts=1,
            demanded=tuple(sorted(demanded)),
            required=tuple(sorted(required)),
            reconnect=before is None or before.uplink != config.uplink or bool(displaced and displaced.reconnect),
        )
        trial = _with(trial, left_s=length_s(config, demanded | required, ready.probation_s))
        await self._save(trial=trial, waiting=None)
        self._say_phase(trial)
        try:
            await self._switch(site, Revision(generation=trial.generation, hash=trial.hash), config)
        except Misconfigured as error:
            await self._undo(trial, wire.CONFIG_REASON_NOT_STARTED, str(error))
        except OSError as error:
            await self._undo(trial, wire.CONFIG_REASON_STORAGE, f"the box could not write: {error}")
        else:
            await self._begin_probation(trial)

    async def _begin_probation(self, trial: Trial) -> None:
        probation = _with(trial, phase="probation")
        await self._save(trial=probation)
        self._persisted_left_s = probation.left_s
        self._looked_ms = self._clock.mono_ms()
        self._say_phase(probation)

    async def _switch(self, site: Site, revision: Revision | None, config: GatewayConfig | None) -> None:
        before, self._current = self._current, (None, None)  # until it is done nothing is sure to run
        try:
            await site.switch(config)
        except Misconfigured:
            self._current = before
            raise
        self._current = (revision, config)
        self._watch.restarted()

    async def _judge(self, site: Site, trial: Trial) -> None:
        """One look at a trial in probation."""
        now_ms = self._clock.mono_ms()
        waits_for_link = trial.reconnect and not site.connected()
        elapsed_s = 0.0 if waits_for_link and not site.carrier() else (now_ms - self._looked_ms) / 1000
        self._looked_ms = now_ms
        trial = _with(trial, left_s=trial.left_s - elapsed_s)
        self._desk.state = _replaced(self._desk.state, trial=trial)
        if trial.left_s > 0:
            if self._persisted_left_s - trial.left_s >= PERSIST_EVERY_S:
                await self._save(trial=trial)
                self._persisted_left_s = trial.left_s
            return
        delivered = self._watch.delivered_ms.keys()
        silent = sorted(set(trial.demanded) - delivered)
        required = sorted(set(trial.required) - delivered)
        if silent:
            text = f"{_listed(silent)} delivered before and not under this configuration"
            await self._undo(trial, wire.CONFIG_REASON_SOURCE_SILENT, text)
        elif required:
            text = f"{_listed(required)} is required and did not deliver"
            await self._undo(trial, wire.CONFIG_REASON_REQUIRED_SILENT, text)
        elif waits_for_link:
            text = "the control plane could not be reached under this configuration"
            await self._undo(trial, wire.CONFIG_REASON_NO_RECONNECT, text)
        else:
            await self._commit(trial)

    async def _commit(self, trial: Trial) -> None:
        last = _outcome(trial, wire.CONFIG_APPLIED)
        revision = Revision(generation=trial.generation, hash=trial.hash)
        await self._save(committed=revision, trial=None, last=last, retries=0)
        await asyncio.to_thread(self._desk.tidy)
        log.info("configuration.applied", generation=trial.generation, hash=trial.hash[:12])
        self._say(last)

    # --- undoing -------------------------------------------------------------------------------------

    async def _undo(self, trial: Trial, reason: int, text: str) -> None:
        log.error("configuration.undone", generation=trial.generation, why=text)
        undone = _undone(trial, reason, text)
        await self._save(trial=undone)
        self._say_phase(undone)

    async def _revert(self, site: Site, trial: Trial) -> None:
        """Back to what was committed, or to nothing but buffer and uplink when even that can't start.

        A disk that refuses ends `run`, whose supervisor begins here again: a full one may have room later.
        """
        state = self._desk.state
        try:
            config = self._committed()
            if self._current != (state.committed, config):
                await self._switch(site, state.committed, config)
        except Misconfigured as error:
            await self._switch(site, None, None)
            await asyncio.to_thread(self._desk.save, self._failed(state, str(error)))
        else:
            await asyncio.to_thread(self._desk.save, self._rolled_back(state, trial))
        await asyncio.to_thread(self._desk.tidy)
        last = self._desk.state.last
        assert last is not None
        self._say(last)

    def _committed(self) -> GatewayConfig:
        """Raises Misconfigured when it can't be read any more."""
        committed = self._desk.state.committed
        try:
            return self._local if committed is None else self._read(committed.hash)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise Misconfigured(str(error)) from error

    def _rolled_back(self, state: State, trial: Trial) -> State:
        outcome = _outcome(trial, wire.CONFIG_ROLLED_BACK, trial.reason, text=trial.text)
        if trial.reason < CONTENT:
            quarantine = _with_quarantined(state, outcome)
            return _replaced(state, trial=None, last=outcome, quarantine=quarantine)
        delay_s = min(RETRY_MAX_S, RETRY_S * 2 ** min(state.retries, 16))
        outcome = msgspec.structs.replace(outcome, retry_at_ms=self._clock.wall_ms() + round(delay_s * 1000))
        return _replaced(state, trial=None, last=outcome, retries=state.retries + 1)

    @staticmethod
    def _failed(state: State, text: str) -> State:
        """Even the committed one can't start: buffer and uplink only, until a newer one comes."""
        failed = state.trial or state.committed
        assert failed is not None
        said = f"the configuration before can't be started either: {text}"
        outcome = _outcome(failed, wire.CONFIG_FAILED, wire.CONFIG_REASON_NOT_STARTED, text=said)
        if state.trial is None:
            return _replaced(state, last=outcome)
        return _replaced(state, trial=None, last=outcome, quarantine=_with_quarantined(state, outcome))

    # --- saying --------------------------------------------------------------------------------------

    async def _save(self, **changed: object) -> None:
        await asyncio.to_thread(self._desk.save, _replaced(self._desk.state, **changed))

    def _say_phase(self, trial: Trial) -> None:
        phase = wire.ConfigPhase.ValueType(PHASES[trial.phase])
        log.info("configuration.phase", generation=trial.generation, phase=trial.phase)
        self._say(_outcome(trial, phase, trial.reason, text=trial.text))

    def _say(self, said: Outcome) -> None:
        self._statements.say(
            wire.ConfigStatus(
                generation=said.generation,
                hash=bytes.fromhex(said.hash),
                phase=wire.ConfigPhase.ValueType(said.phase),
                reason=said.reason,
                pointer=said.pointer,
                text=said.text,
                retry_at_ms=said.retry_at_ms,
                running=self.running(),
            )
        )


def _outcome(
    of: wire.ConfigOffer | Revision | Trial, phase: int, reason: int = 0, *, pointer: str = "", text: str = ""
) -> Outcome:
    name = of.hash.hex() if isinstance(of, wire.ConfigOffer) else of.hash
    return Outcome(generation=of.generation, hash=name, phase=phase, reason=reason, pointer=pointer, text=text)


def _with_quarantined(state: State, outcome: Outcome) -> tuple[Outcome, ...]:
    others = tuple(one for one in state.quarantine if one.hash != outcome.hash)
    return (*others, outcome)[-QUARANTINE_LIMIT:]


def _start_given_back(state: State) -> State:
    trial = state.trial
    if trial is None or trial.phase == "rolling_back":
        return state
    return _replaced(state, trial=_with(trial, starts=max(0, trial.starts - 1)))


def _undone(trial: Trial, reason: int, text: str) -> Trial:
    return _with(trial, phase="rolling_back", reason=reason, text=text)


def _with(trial: Trial, **changed: object) -> Trial:
    return msgspec.structs.replace(trial, **changed)


def _replaced(state: State, **changed: object) -> State:
    return msgspec.structs.replace(state, **changed)


def _listed(names: list[str]) -> str:
    return ", ".join(names)


async def _either(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
