"""The one place where the control plane's parts meet.

Each function reads top to bottom: that is the order of starting; its `with` blocks are the order of stopping.

Nothing is shared between roles but the stores and the data folder. Imports stand inside, so that a role loads only
what it runs: three processes start at once, on small machines.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from control_plane.clock import SystemClock
from control_plane.lifeline import stop_requested
from control_plane.settings import Settings
from control_plane.store.engine import Stores

if TYPE_CHECKING:
    from flask import Flask


def run_ingest(settings: Settings, ready: Callable[[], None]) -> None:
    """The identity listener in threads of its own, beside the gateways' streams. Returns on SIGTERM."""
    from control_plane.first_start import certificate_names
    from control_plane.fleet.authority import Authority
    from control_plane.fleet.enrolment import Enrolment
    from control_plane.ingest.identity import IdentityService, PeerLimit, serving

    clock, authority = SystemClock(), Authority.open(settings.data)
    server = authority.server_identity(certificate_names(settings), now_ms=clock.now_ms())
    with Stores(settings.database_url) as stores:
        enrolment = Enrolment(stores=stores, authority=authority, clock=clock)
        limit = PeerLimit(per_minute=settings.identity_limits.per_minute, monotonic_s=time.monotonic)
        service = IdentityService(enroller=enrolment, limit=limit)
        stop = stop_requested()
        with serving(settings.identity, service, key_pem=server.key_pem, chain_pem=server.chain_pem):
            # control_plane.ingest.server:main(settings, …, ready=ready) takes the place of these two lines.
            ready()
            stop.wait()


def run_worker(settings: Settings, ready: Callable[[], None]) -> None:
    """Projections, reconciliation and relay. Returns on SIGTERM."""
    # control_plane.worker:main(settings, ready=ready) takes the place of these lines.
    with Stores(settings.database_url):
        stop = stop_requested()
        ready()
        stop.wait()


def create_web(settings: Settings) -> Flask:
    """The WSGI application; called in the process that serves it."""
    from control_plane.api.app import create_app
    from control_plane.api.routes import Parts, routes
    from control_plane.fleet.accounts import Accounts
    from control_plane.fleet.authority import Authority
    from control_plane.fleet.enrolment import Enrolment

    clock, stores = SystemClock(), Stores(settings.database_url)
    authority = Authority.open(settings.data)
    parts = Parts(
        settings=settings,
        stores=stores,
        clock=clock,
        authority=authority,
        accounts=Accounts(store=stores.business, clock=clock),
        enrolment=Enrolment(stores=stores, authority=authority, clock=clock),
    )
    return create_app(routes(parts), accounts=parts.accounts, web=settings.web)
