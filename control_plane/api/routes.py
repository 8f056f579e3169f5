"""The route table: one line per subject; what is not here is not answered."""

from __future__ import annotations

from dataclasses import dataclass

from control_plane.api.api_tokens import ApiTokens
from control_plane.api.binding import Route
from control_plane.api.configuration import ConfigurationRoutes
from control_plane.api.deliveries import Deliveries
from control_plane.api.enrolment import EnrolmentDocument
from control_plane.api.events import Events
from control_plane.api.gaps import Gaps
from control_plane.api.gateways import Gateways
from control_plane.api.health import Health
from control_plane.api.join_tokens import JoinTokenRoutes
from control_plane.api.readings import ReadingsRoutes
from control_plane.clock import Clock
from control_plane.fleet.accounts import Accounts
from control_plane.fleet.authority import Authority
from control_plane.fleet.enrolment import Enrolment
from control_plane.fleet.revisions import Revisions
from control_plane.fleet.status import Statuses
from control_plane.projections.reading import HistoryReader
from control_plane.settings import Settings
from control_plane.store.engine import Stores
from firmware_configs.loader import Profiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What subjects are built from."""

    settings: Settings
    stores: Stores
    clock: Clock
    authority: Authority
    accounts: Accounts
    enrolment: Enrolment
    reader: HistoryReader


def routes(parts: Parts) -> tuple[Route, ...]:
    return (
        *Health(stores=parts.stores, data_dir=parts.settings.data).routes(),
        *EnrolmentDocument(settings=parts.settings, authority=parts.authority).routes(),
        *ApiTokens(accounts=parts.accounts, failures_per_minute=parts.settings.web.logins_per_minute).routes(),
        *JoinTokenRoutes(join_tokens=parts.enrolment.join_tokens, clock=parts.clock).routes(),
        *Gateways(store=parts.stores.business, enrolment=parts.enrolment).routes(),
        *configuration(parts).routes(),
        *ReadingsRoutes(telemetry=parts.stores.telemetry, reader=parts.reader, clock=parts.clock).routes(),
        *Gaps(store=parts.stores.telemetry).routes(),
        *Events(store=parts.stores.business).routes(),
        *Deliveries(store=parts.stores.business).routes(),
    )


def configuration(parts: Parts) -> ConfigurationRoutes:
    """Also what a page shows of a gateway's configuration."""
    return ConfigurationRoutes(
        revisions=Revisions(stores=parts.stores, clock=parts.clock, profiles=Profiles()),
        statuses=Statuses(stores=parts.stores, clock=parts.clock),
        stores=parts.stores,
    )
