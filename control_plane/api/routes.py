"""The route table: one line per subject; what is not here is not answered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from control_plane.api.api_tokens import ApiTokens
from control_plane.api.assets import AssetRoutes
from control_plane.api.binding import Route
from control_plane.api.broadcast import Broadcaster
from control_plane.api.clones import CloneRoutes
from control_plane.api.commands import CommandRoutes
from control_plane.api.completeness import Completeness
from control_plane.api.configuration import ConfigurationRoutes
from control_plane.api.deliveries import Deliveries
from control_plane.api.destinations import DestinationRoutes
from control_plane.api.enrolment import EnrolmentDocument
from control_plane.api.events import Events
from control_plane.api.evidence import EvidenceRoutes
from control_plane.api.export import Exports
from control_plane.api.gaps import Gaps
from control_plane.api.gateways import GatewayRoutes
from control_plane.api.groups import GroupRoutes
from control_plane.api.health import Health
from control_plane.api.join_tokens import JoinTokenRoutes
from control_plane.api.ledger import Ledger
from control_plane.api.live import LiveRoutes
from control_plane.api.me import MeRoutes
from control_plane.api.places import PlaceRoutes
from control_plane.api.prometheus.routes import PrometheusApi
from control_plane.api.readings import ReadingsRoutes
from control_plane.api.retention import RetentionRoutes
from control_plane.api.sensors import SensorRoutes
from control_plane.api.users import UserRoutes
from control_plane.clock import Clock
from control_plane.fleet.accounts import Accounts
from control_plane.fleet.assets import Assets
from control_plane.fleet.authority import Authority
from control_plane.fleet.clones import Clones
from control_plane.fleet.commands import Commands
from control_plane.fleet.enrolment import Enrolment
from control_plane.fleet.gateways import Gateways
from control_plane.fleet.places import Places
from control_plane.fleet.revisions import Revisions
from control_plane.fleet.search import FleetSearch
from control_plane.fleet.sensors import Sensors
from control_plane.fleet.status import Statuses
from control_plane.fleet.users import Users
from control_plane.projections.balances import Balances
from control_plane.projections.reading import HistoryReader
from control_plane.projections.recorded import Recorded
from control_plane.retention.evidence import Evidence
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
    broadcaster: Broadcaster
    """Of all live answers of this process, pages' included."""


def routes(parts: Parts) -> tuple[Route, ...]:
    stores, clock = parts.stores, parts.clock
    revisions = Revisions(stores=stores, clock=clock, profiles=Profiles())
    assets = Assets(store=stores.business, clock=clock)
    users = Users(store=stores.business, accounts=parts.accounts, clock=clock)
    balances = Balances(journal=stores.journal, telemetry=stores.telemetry)
    recorded = Recorded(journal=stores.journal, telemetry=stores.telemetry, reader=parts.reader, balances=balances)
    return (
        *Health(stores=stores, data_dir=parts.settings.data).routes(),
        *EnrolmentDocument(settings=parts.settings, authority=parts.authority).routes(),
        *MeRoutes(accounts=parts.accounts).routes(),
        *ApiTokens(accounts=parts.accounts, failures_per_minute=parts.settings.web.logins_per_minute).routes(),
        *UserRoutes(users=users).routes(),
        *JoinTokenRoutes(join_tokens=parts.enrolment.join_tokens, clock=clock).routes(),
        *gateways(parts).routes(),
        *CloneRoutes(clones=Clones(stores=stores, clock=clock)).routes(),
        *CommandRoutes(commands=Commands(stores=stores, clock=clock)).routes(),
        *SensorRoutes(sensors=Sensors(stores=stores, clock=clock), assets=assets).routes(),
        *AssetRoutes(assets=assets).routes(),
        *PlaceRoutes(places=Places(store=stores.business, clock=clock)).routes(),
        *GroupRoutes(store=stores.business, revisions=revisions).routes(),
        *RetentionRoutes(store=stores.business, defaults=parts.settings.retention, clock=clock).routes(),
        *configuration(parts).routes(),
        *ReadingsRoutes(telemetry=stores.telemetry, reader=parts.reader, clock=clock).routes(),
        *Exports(telemetry=stores.telemetry, reader=parts.reader, clock=clock).routes(),
        *Gaps(store=stores.telemetry).routes(),
        *Completeness(store=stores.telemetry, recorded=recorded).routes(),
        *Ledger(balances=balances).routes(),
        *Events(store=stores.business).routes(),
        *EvidenceRoutes(stores=stores, evidence=Evidence(stores=stores, reader=parts.reader)).routes(),
        *Deliveries(store=stores.business, clock=clock).routes(),
        *LiveRoutes(stores=stores, clock=clock, broadcaster=parts.broadcaster).routes(),
        *DestinationRoutes(store=stores.business, folder=Path(parts.settings.integrations), clock=clock).routes(),
    )


def gateways(parts: Parts) -> GatewayRoutes:
    """Also what the page that enrols registers by."""
    revisions = Revisions(stores=parts.stores, clock=parts.clock, profiles=Profiles())
    store, clock = parts.stores.business, parts.clock
    return GatewayRoutes(
        gateways=Gateways(store=store, clock=clock, enrolment=parts.enrolment, revisions=revisions),
        assets=Assets(store=store, clock=clock),
        search=FleetSearch(telemetry=parts.stores.telemetry, clock=clock),
    )


def prometheus(parts: Parts) -> PrometheusApi:
    """Beside the table: its paths, forms and errors are another program's."""
    telemetry, clock = parts.stores.telemetry, parts.clock
    return PrometheusApi(telemetry=telemetry, reader=parts.reader, accounts=parts.accounts, clock=clock)


def configuration(parts: Parts) -> ConfigurationRoutes:
    """Also what a page shows of a gateway's configuration."""
    return ConfigurationRoutes(
        revisions=Revisions(stores=parts.stores, clock=parts.clock, profiles=Profiles()),
        statuses=Statuses(stores=parts.stores, clock=parts.clock),
        stores=parts.stores,
    )
