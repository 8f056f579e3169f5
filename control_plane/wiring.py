"""The one place where the control plane's parts meet.

Each function reads top to bottom: that is the order of starting; its `with` blocks are the order of stopping.

Nothing is shared between roles but the stores and the data folder. Imports stand inside, so that a role loads only
what it runs: four processes start at once, on small machines.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from control_plane.lifeline import process_name, stop_requested
from control_plane.occupied import running_on
from control_plane.settings import Settings
from control_plane.store.engine import Stores

if TYPE_CHECKING:
    from flask import Flask

    from control_plane.api.broadcast import Lifetime
    from control_plane.clock import Clock
    from control_plane.worker import Loop

HISTORY_NICE = 10
"""Every byte saved can wait; what gateways send and people ask for can't."""


def run_ingest(settings: Settings, ready: Callable[[], None], *, slot: int = 1) -> None:
    """The identity listener in threads of its own, beside the gateways' streams. Returns on SIGTERM.

    `slot` tells apart the processes of one machine, which share its ports.
    """
    from control_plane.first_start import certificate_names, same_keys
    from control_plane.fleet.authority import Authority
    from control_plane.fleet.clones import Clones
    from control_plane.fleet.departed import PREFIX
    from control_plane.fleet.dispatch import Dispatch
    from control_plane.fleet.enrolment import Enrolment
    from control_plane.fleet.offers import Offers
    from control_plane.ingest.door import Door
    from control_plane.ingest.identity import IdentityService, PeerLimit, serving
    from control_plane.ingest.server import Admission, serve
    from control_plane.journal.dictionaries import Issued
    from control_plane.journal.sql import SqlJournal
    from control_plane.retention.policies import Policies
    from control_plane.store.leases import Alive
    from control_plane.store.shared_clock import clock_of

    authority, name = Authority.open(settings.data), f"{socket.gethostname()[:64]} {settings.grpc} {slot}"
    with running_on(settings), Stores(settings.database_url) as stores, clock_of(stores) as clock:
        same_keys(stores.business, authority)
        door = Door(authority=authority, names=lambda: certificate_names(settings), clock=clock)
        alive = None if stores.business.sqlite else Alive(stores.business)
        enrolment = Enrolment(stores=stores, authority=authority, clock=clock)
        limit = PeerLimit(per_minute=settings.identity_limits.per_minute, monotonic_s=time.monotonic)
        service = IdentityService(enroller=enrolment, limit=limit)
        stop = stop_requested()
        policies = Policies(business=stores.business, defaults=settings.retention)
        journal = SqlJournal(stores.journal, server=name, kept_as=policies.kept_as)
        journal.everyone_left(now_ms=clock.now_ms(), why="this server was not running")
        with serving(settings.identity, service, credentials=door.identity()):
            asyncio.run(
                serve(
                    address=settings.grpc,
                    door=door,
                    journal=journal,
                    clock=clock,
                    settings=settings.ingest,
                    admission=Admission(enrolment.revoked_serials),
                    ready=ready,
                    stop=stop,
                    offers=Offers(stores, authority.config_key, settings.configuration.probation_s),
                    dictionaries=Issued(stores.journal),
                    dispatch=Dispatch(stores, authority.config_key, clock),
                    released=Clones(stores=stores, clock=clock).released,
                    alive=(lambda: alive.say(PREFIX + name)) if alive is not None else lambda: None,
                )
            )


def run_worker(settings: Settings, ready: Callable[[], None], *, history: bool = True) -> None:
    """Journal → projections → reconcile → outbox → relay. Returns on SIGTERM.

    What only one worker may do are duties, each under a lease; relays share the work key by key. `history`: whether
    this one seals too, where no process is there for that alone.
    """
    from control_plane.first_start import same_keys
    from control_plane.fleet.authority import Authority
    from control_plane.projections.reading import HistoryReader
    from control_plane.reconcile.reconciler import Reconciler
    from control_plane.relay.deliver import Deliverer
    from control_plane.relay.destinations import connect, read_destinations
    from control_plane.store.leases import leases_of
    from control_plane.store.shared_clock import clock_of
    from control_plane.worker import Duty, Loop, threaded, work

    targets = read_destinations(Path(settings.integrations))
    with running_on(settings), Stores(settings.database_url) as stores, clock_of(stores) as clock:
        same_keys(stores.business, Authority.open(settings.data))
        stop = stop_requested()

        def reconciling(held: Stores) -> list[Loop]:
            reconciler = Reconciler(
                stores=held,
                reader=HistoryReader(journal=held.journal, telemetry=held.telemetry),
                rules=settings.rules.cold_chain,
                destinations=targets,
                clock=clock,
                hold_max_s=settings.rules.hold_max_s,
            )
            return [Loop("reconcile", threaded(reconciler.step), idle_s=0.3)]

        duties = [
            Duty("projections", lambda held: _projecting(held, clock)),
            Duty("retention", lambda held: _dropping(held, clock, settings)),
            Duty("reconcile", reconciling),
            Duty("fleet", lambda held: _managing(held, clock, settings)),
        ]
        if history:
            duties.append(Duty("history", lambda held: _sealing(held, clock, settings)))

        async def run() -> None:
            connectors = [connect(target) for target in targets]
            deliverers = [
                Deliverer(store=stores.business, destination=target, connector=connector, clock=clock)
                for target, connector in zip(targets, connectors, strict=True)
            ]
            relays = [
                Loop(f"relay.{target.name}", deliverer.step)
                for target, deliverer in zip(targets, deliverers, strict=True)
            ]
            leases = leases_of(stores, holder=process_name("worker"))
            try:
                await work(relays, duties=duties, leases=leases, stop=stop, ready=ready)
            finally:
                await asyncio.gather(*(deliverer.close() for deliverer in deliverers))
                for connector in connectors:
                    await connector.close()

        asyncio.run(run())


def run_history(settings: Settings, ready: Callable[[], None]) -> None:
    """Seals hours that are over and rolls them up, as quietly as the machine allows. Returns on SIGTERM."""
    from control_plane.first_start import same_keys
    from control_plane.fleet.authority import Authority
    from control_plane.store.leases import leases_of
    from control_plane.store.shared_clock import clock_of
    from control_plane.worker import Duty, work

    def step_back() -> None:
        """From now on: this thread and those that it will start. Starting is not nice, others wait for it."""
        ready()
        with suppress(OSError):  # a unit may forbid it, and says Nice= itself
            os.setpriority(os.PRIO_PROCESS, 0, max(HISTORY_NICE, os.getpriority(os.PRIO_PROCESS, 0)))

    with running_on(settings), Stores(settings.database_url) as stores, clock_of(stores) as clock:
        same_keys(stores.business, Authority.open(settings.data))
        leases = leases_of(stores, holder=process_name("history"))
        duties = [Duty("history", lambda held: _sealing(held, clock, settings))]
        asyncio.run(work([], duties=duties, leases=leases, stop=stop_requested(), ready=step_back))


def _projecting(held: Stores, clock: Clock) -> list[Loop]:
    from control_plane.dictionaries.trainer import Trainer
    from control_plane.projections.boots import BootsProjection
    from control_plane.projections.completeness import CompletenessProjection
    from control_plane.projections.history import HistoryProjection
    from control_plane.projections.ledger import LedgerProjection
    from control_plane.projections.projector import Projector
    from control_plane.projections.state import StateProjection
    from control_plane.worker import Loop, threaded

    trainer = Trainer(journal=held.journal, clock=clock)
    projector = Projector(
        journal=held.journal,
        telemetry=held.telemetry,
        clock=clock,
        completeness=CompletenessProjection(),
        others=(BootsProjection(), StateProjection(), HistoryProjection(), LedgerProjection()),
        seen=trainer.seen,
    )
    return [
        Loop("projections", threaded(projector.step)),
        Loop("dictionaries", threaded(trainer.step), idle_s=0.5),
    ]


def _sealing(held: Stores, clock: Clock, settings: Settings) -> list[Loop]:
    from control_plane.projections.again import Anew
    from control_plane.projections.reading import HistoryReader
    from control_plane.projections.roller import Roller
    from control_plane.projections.sealer import Sealer
    from control_plane.retention.policies import Policies
    from control_plane.retention.rolling import Places
    from control_plane.worker import Behind, Loop, threaded

    behind = Behind(journal=held.journal, telemetry=held.telemetry)
    reader = HistoryReader(journal=held.journal, telemetry=held.telemetry)
    policies = Policies(business=held.business, defaults=settings.retention)
    roller = Roller(telemetry=held.telemetry, reader=reader, place=Places(policies))

    def sealing() -> Callable[[], bool]:
        sealer = Sealer(
            telemetry=held.telemetry, reader=reader, clock=clock, sealed=roller.sealed, kept_as=policies.kept_as
        )
        return sealer.step

    return [
        # What came is answered for first; sealing what is over saves bytes and can wait, though not for ever.
        Loop("sealing", threaded(behind.looking(Anew(held.telemetry, sealing).step)), idle_s=5.0, yields=behind),
        Loop("rollups", threaded(behind.looking(roller.step)), idle_s=5.0, yields=behind),
    ]


def _dropping(held: Stores, clock: Clock, settings: Settings) -> list[Loop]:
    from control_plane.projections.reading import HistoryReader
    from control_plane.retention.dropping import Retention
    from control_plane.retention.evidence import Evidence
    from control_plane.retention.policies import Policies
    from control_plane.worker import Loop, threaded

    reader = HistoryReader(journal=held.journal, telemetry=held.telemetry)
    retention = Retention(
        stores=held,
        policies=Policies(business=held.business, defaults=settings.retention),
        evidence=Evidence(stores=held, reader=reader),
        clock=clock,
    )
    return [Loop("retention", threaded(retention.step), idle_s=60.0)]


def _managing(held: Stores, clock: Clock, settings: Settings) -> list[Loop]:
    from control_plane.fleet.departed import Departed
    from control_plane.fleet.index import FleetIndex
    from control_plane.fleet.outcomes import Outcomes
    from control_plane.fleet.revisions import Revisions
    from control_plane.fleet.settle import Settling
    from control_plane.projections.placing import Placing
    from control_plane.worker import Loop, threaded
    from firmware_configs.loader import Profiles

    settling = Settling(revisions=Revisions(stores=held, clock=clock, profiles=Profiles()), stores=held, clock=clock)
    placing = Placing(stores=held, clock=clock, hold_max_s=settings.rules.hold_max_s)
    loops = [
        Loop("boots", threaded(placing.step), idle_s=1.0),
        Loop("configuration", threaded(settling.step), idle_s=1.0),
        Loop("fleet", threaded(FleetIndex(stores=held, clock=clock).step), idle_s=0.5),
        Loop("commands", threaded(Outcomes(held, clock).step), idle_s=0.3),
    ]
    if not held.journal.sqlite:
        loops.append(Loop("departed", threaded(Departed(held).step), idle_s=3.0))
    return loops


def create_web(settings: Settings, *, lifetime: Lifetime) -> Flask:
    """The WSGI application, REST and pages; called in the process that serves it. `lifetime` ends its live streams."""
    from control_plane.api.app import create_app
    from control_plane.api.broadcast import Broadcaster
    from control_plane.api.routes import Parts, prometheus, routes
    from control_plane.first_start import same_keys
    from control_plane.fleet.accounts import Accounts
    from control_plane.fleet.authority import Authority
    from control_plane.fleet.enrolment import Enrolment
    from control_plane.projections.reading import HistoryReader
    from control_plane.store.shared_clock import clock_of
    from control_plane.web.pages import pages

    stores, authority = Stores(settings.database_url), Authority.open(settings.data)
    open_until_exit = ExitStack()  # gunicorn ends its worker by ending the process
    open_until_exit.enter_context(running_on(settings))
    clock = open_until_exit.enter_context(clock_of(stores))
    same_keys(stores.business, authority)
    parts = Parts(
        settings=settings,
        stores=stores,
        clock=clock,
        authority=authority,
        accounts=Accounts(store=stores.business, clock=clock),
        enrolment=Enrolment(stores=stores, authority=authority, clock=clock),
        reader=HistoryReader(journal=stores.journal, telemetry=stores.telemetry),
        broadcaster=Broadcaster(limit=settings.web.streams, lifetime=lifetime),
    )
    mounts, shared = (pages(parts).mount, prometheus(parts).mount), stores.business
    app = create_app(routes(parts), accounts=parts.accounts, web=settings.web, mounts=mounts, shared=shared)
    app.extensions["comboio.open"] = open_until_exit
    return app
