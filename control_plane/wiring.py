"""The one place where the control plane's parts meet.

Each function reads top to bottom: that is the order of starting; its `with` blocks are the order of stopping.

Nothing is shared between roles but the stores and the data folder. Imports stand inside, so that a role loads only
what it runs: three processes start at once, on small machines.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from control_plane.clock import SystemClock
from control_plane.lifeline import stop_requested
from control_plane.settings import Settings
from control_plane.store.engine import Stores

if TYPE_CHECKING:
    from flask import Flask

    from control_plane.api.broadcast import Lifetime


def run_ingest(settings: Settings, ready: Callable[[], None]) -> None:
    """The identity listener in threads of its own, beside the gateways' streams. Returns on SIGTERM."""
    from control_plane.first_start import certificate_names
    from control_plane.fleet.authority import Authority
    from control_plane.fleet.clones import Clones
    from control_plane.fleet.dispatch import Dispatch
    from control_plane.fleet.enrolment import Enrolment
    from control_plane.fleet.offers import Offers
    from control_plane.ingest.identity import IdentityService, PeerLimit, serving
    from control_plane.ingest.server import Admission, Door, serve
    from control_plane.journal.dictionaries import Issued
    from control_plane.journal.sql import SqlJournal

    clock, authority = SystemClock(), Authority.open(settings.data)
    server = authority.server_identity(certificate_names(settings), now_ms=clock.now_ms())
    with Stores(settings.database_url) as stores:
        enrolment = Enrolment(stores=stores, authority=authority, clock=clock)
        limit = PeerLimit(per_minute=settings.identity_limits.per_minute, monotonic_s=time.monotonic)
        service = IdentityService(enroller=enrolment, limit=limit)
        stop = stop_requested()
        journal = SqlJournal(stores.journal)
        if stores.journal.sqlite:  # one machine: there is no other ingest whose gateways these could be
            journal.everyone_left(now_ms=clock.now_ms(), why="this server was not running")
        with serving(settings.identity, service, key_pem=server.key_pem, chain_pem=server.chain_pem):
            door = Door(
                address=settings.grpc,
                key_pem=server.key_pem,
                chain_pem=server.chain_pem,
                ca_pem=authority.ca_pem,
            )
            asyncio.run(
                serve(
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
                )
            )


def run_worker(settings: Settings, ready: Callable[[], None]) -> None:
    """Journal → projections → reconcile → outbox → relay. Returns on SIGTERM."""
    from control_plane.dictionaries.trainer import Trainer
    from control_plane.fleet.index import FleetIndex
    from control_plane.fleet.outcomes import Outcomes
    from control_plane.fleet.revisions import Revisions
    from control_plane.fleet.settle import Settling
    from control_plane.projections.boots import BootsProjection
    from control_plane.projections.completeness import CompletenessProjection
    from control_plane.projections.history import HistoryProjection
    from control_plane.projections.ledger import LedgerProjection
    from control_plane.projections.placing import Placing
    from control_plane.projections.projector import Projector
    from control_plane.projections.reading import HistoryReader
    from control_plane.projections.rollups import Roller
    from control_plane.projections.sealer import Sealer
    from control_plane.projections.state import StateProjection
    from control_plane.reconcile.reconciler import Reconciler
    from control_plane.relay.connectors.webhook import WebhookConnector
    from control_plane.relay.deliver import Deliverer
    from control_plane.settings import read_destinations
    from control_plane.worker import Loop, threaded, work
    from firmware_configs.loader import Profiles

    clock = SystemClock()
    targets = read_destinations(Path(settings.integrations))
    with Stores(settings.database_url) as stores:
        stop = stop_requested()
        trainer = Trainer(journal=stores.journal, clock=clock)
        projector = Projector(
            journal=stores.journal,
            telemetry=stores.telemetry,
            clock=clock,
            completeness=CompletenessProjection(),
            others=(BootsProjection(), StateProjection(), HistoryProjection(), LedgerProjection()),
            seen=trainer.seen,
        )
        reader = HistoryReader(journal=stores.journal, telemetry=stores.telemetry)
        roller = Roller(telemetry=stores.telemetry, reader=reader)
        sealer = Sealer(telemetry=stores.telemetry, reader=reader, clock=clock, sealed=roller.sealed)
        reconciler = Reconciler(
            stores=stores,
            reader=reader,
            rules=settings.rules.cold_chain,
            destinations=targets,
            clock=clock,
            hold_max_s=settings.rules.hold_max_s,
        )
        settling = Settling(
            revisions=Revisions(stores=stores, clock=clock, profiles=Profiles()), stores=stores, clock=clock
        )
        placing = Placing(stores=stores, clock=clock, hold_max_s=settings.rules.hold_max_s)
        loops = [
            Loop("projections", threaded(projector.step)),
            Loop("reconcile", threaded(reconciler.step), idle_s=0.3),
            Loop("boots", threaded(placing.step), idle_s=1.0),
            Loop("configuration", threaded(settling.step), idle_s=1.0),
            Loop("fleet", threaded(FleetIndex(stores=stores, clock=clock).step), idle_s=0.5),
            Loop("sealing", threaded(sealer.step), idle_s=5.0),
            Loop("rollups", threaded(roller.step), idle_s=5.0),
            Loop("dictionaries", threaded(trainer.step), idle_s=0.5),
            Loop("commands", threaded(Outcomes(stores, clock).step), idle_s=0.3),
        ]

        async def run() -> None:
            connectors = [WebhookConnector(target) for target in targets]
            deliverers = [
                Deliverer(store=stores.business, destination=target, connector=connector, clock=clock)
                for target, connector in zip(targets, connectors, strict=True)
            ]
            for target, deliverer in zip(targets, deliverers, strict=True):
                loops.append(Loop(f"relay.{target.name}", deliverer.step))
            try:
                await work(loops, stop=stop, ready=ready)
            finally:
                await asyncio.gather(*(deliverer.close() for deliverer in deliverers))
                for connector in connectors:
                    await connector.close()

        asyncio.run(run())


def create_web(settings: Settings, *, lifetime: Lifetime) -> Flask:
    """The WSGI application, REST and pages; called in the process that serves it. `lifetime` ends its live streams."""
    from control_plane.api.app import create_app
    from control_plane.api.broadcast import Broadcaster
    from control_plane.api.routes import Parts, routes
    from control_plane.fleet.accounts import Accounts
    from control_plane.fleet.authority import Authority
    from control_plane.fleet.enrolment import Enrolment
    from control_plane.projections.reading import HistoryReader
    from control_plane.web.pages import pages

    clock, stores = SystemClock(), Stores(settings.database_url)
    authority = Authority.open(settings.data)
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
    return create_app(routes(parts), accounts=parts.accounts, web=settings.web, mount=pages(parts).mount)
