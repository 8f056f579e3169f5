from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from control_plane.api.binding import Permission, Route
from control_plane.api.configuration import unfit
from control_plane.api.fields import AssetId, Name, Slug, etag
from control_plane.api.paging import Page, PageQuery, moment, page
from control_plane.api.problems import FieldProblem, Problem
from control_plane.fleet.assets import Assets
from control_plane.fleet.gateways import GatewayRow, Gateways
from control_plane.fleet.presence import Standing, Status, Why
from control_plane.fleet.revisions import UnfitError
from control_plane.fleet.rights import Caller
from control_plane.fleet.search import FleetSearch, Found, Key, Order, Wanted, texts
from control_plane.fleet.status import State, Way

TokenLife = Annotated[int, Meta(ge=60, le=90 * 86_400)]


class GatewayStanding(msgspec.Struct, frozen=True, kw_only=True):
    """How it stands, as far as this server has heard; what was never said is null."""

    status: Status
    why: Why
    connected: datetime | None
    heard: datetime | None
    left: datetime | None
    data: datetime | None
    """When its newest readings were taken in here."""
    readings: int
    version: str | None
    backlog_batches: int | None
    backlog_bytes: int | None
    backlog_oldest: datetime | None
    clock_err_ms: int | None
    sensors_silent: int | None
    configuration: State | None
    paused: datetime | None


class GatewayItem(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    asset: str | None
    groups: list[str]
    hardware: str
    serial: str
    created: datetime
    enrolled: datetime | None
    """Null: registered ahead, the box has not come yet."""
    retired: datetime | None
    certificate_expires: datetime | None
    """Of the newest certificate not revoked."""
    standing: GatewayStanding | None
    """As of a second ago; null while the server has not looked at a new gateway yet."""
    etag: str


Least = Annotated[int, Meta(ge=0, le=1 << 40)]


class GatewayQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Without a filter of its standing and without `sort`: the registry itself, by id."""

    group: str | None = None
    asset: str | None = None
    """On this asset or a part of it."""
    retired: bool | None = None
    q: str | None = None
    """Part of name, id or asset, in any case."""
    status: Annotated[tuple[Status, ...], Meta(max_length=5)] = ()
    """Any of these."""
    configuration: Annotated[tuple[Way, ...], Meta(max_length=6)] = ()
    """Any of these."""
    certificate_days: Annotated[int, Meta(ge=-100_000, le=100_000)] | None = None
    """Its certificate ends within so many days, or has ended."""
    backlog: Least | None = None
    """So many batches at least wait on it."""
    clock_err_ms: Least | None = None
    """Its clock may be off by so much at least."""
    silent: Least | None = None
    """So many of its sensors at least are silent."""
    quiet_s: Least | None = None
    """No data came for so long, or never."""
    version: str | None = None
    sort: Order | None = None
    """What has no value comes last; equal ones by id."""
    falling: bool = False

    @property
    def by_standing(self) -> bool:
        numbers = (self.certificate_days, self.backlog, self.clock_err_ms, self.silent, self.quiet_s)
        asked = any(one is not None for one in (self.q, self.version, self.sort, *numbers))
        return bool(asked or self.status or self.configuration)


class GatewayRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    asset: AssetId | None = None
    groups: Annotated[list[Slug], Meta(max_length=100)] = []
    ttl_s: TokenLife = 86_400
    """Life of the join token."""


class GatewayMade(msgspec.Struct, frozen=True):
    gateway: GatewayItem
    token: str
    """The join token; shown here and never again."""
    token_id: str
    token_expires: datetime


class TokenRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    ttl_s: TokenLife = 86_400


class TokenMade(msgspec.Struct, frozen=True):
    id: str
    token: str
    """Shown here and never again."""
    expires: datetime


class GatewayPatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays."""

    name: Name | UnsetType = UNSET
    asset: AssetId | UnsetType | None = UNSET
    groups: Annotated[list[Slug], Meta(max_length=100)] | UnsetType = UNSET


class GatewayRoutes:
    def __init__(self, *, gateways: Gateways, assets: Assets, search: FleetSearch) -> None:
        self._gateways = gateways
        self._assets = assets
        self._search = search

    def routes(self) -> tuple[Route, ...]:
        one = "/gateways/{gateway_id}"
        return (
            Route(
                method="GET",
                path="/gateways",
                view=self.list,
                permission=Permission.VIEWER,
                summary="The fleet: the registry and how each gateway stands, filtered and sorted by either",
            ),
            Route(
                method="POST",
                path="/gateways",
                view=self.register,
                permission=Permission.ADMIN,
                summary="Register a gateway ahead of its coming, with a join token for it",
                status=201,
                problems=(404,),
            ),
            Route(
                method="POST",
                path=one + "/join-token",
                view=self.token,
                permission=Permission.ADMIN,
                summary="Another join token for a gateway that has not come yet; the ones before end",
                status=201,
            ),
            Route(method="GET", path=one, view=self.get, permission=Permission.VIEWER, summary="One gateway"),
            Route(
                method="PATCH",
                path=one,
                view=self.change,
                permission=Permission.OPERATOR,
                summary="Change a gateway's name, asset or groups",
            ),
            Route(
                method="DELETE",
                path=one,
                view=self.retire,
                permission=Permission.ADMIN,
                summary="Retire a gateway and revoke its certificates; what it delivered stays",
            ),
        )

    def list(self, query: GatewayQuery, caller: Caller) -> Page[GatewayItem]:
        if query.by_standing:
            return self._found(query, caller)
        (after,) = query.after(str) or ("",)
        rows = self._gateways.listed(
            caller, after=after, limit=query.limit + 1, group=query.group, asset=query.asset, retired=query.retired
        )
        found = self._search.some([one.row.id for one in rows[: query.limit]])
        return page(
            rows, limit=query.limit, item=lambda one: _item(one, found.get(one.row.id)), key=lambda one: (one.row.id,)
        )

    def _found(self, query: GatewayQuery, caller: Caller) -> Page[GatewayItem]:
        order: Order = query.sort or "name"
        before = query.after(str, bool, str | int | None, str)
        if before is not None and (before[:2] != (order, query.falling) or not _fits(order, before[2])):
            wrong = FieldProblem("?cursor", f"not a cursor of the list sorted by {order}; leave it out to begin again")
            raise Problem(422, "The cursor can't be read.", errors=[wrong])
        after = None if before is None else Key(before[2], before[3])
        rows = self._search.rows(
            caller, _wanted(query), order=order, falling=query.falling, after=after, limit=query.limit + 1
        )
        known = {one.row.id: one for one in self._gateways.some([row.key.gateway for row in rows])}
        return page(
            [row for row in rows if row.key.gateway in known],
            limit=query.limit,
            item=lambda row: _item(known[row.key.gateway], row),
            key=lambda row: (order, query.falling, *row.key),
        )

    def get(self, gateway_id: str, caller: Caller) -> GatewayItem:
        visible(caller, gateway_id)
        return self._item(self._gateways.get(gateway_id))

    def _item(self, one: GatewayRow) -> GatewayItem:
        return _item(one, self._search.some([one.row.id]).get(one.row.id))

    def register(self, body: GatewayRequest, caller: Caller) -> GatewayMade:
        groups = frozenset(body.groups)
        self._check(caller, body.asset, groups)
        if caller.groups is not None and not groups:
            raise Problem(
                422, "Which of your groups?", errors=[FieldProblem("/groups", "name at least one of your groups")]
            )
        try:
            made, token = self._gateways.register(
                name=body.name, asset=body.asset, groups=groups, ttl_s=body.ttl_s, by=caller.name
            )
        except UnfitError as error:
            raise unfit(error) from None
        return GatewayMade(self._item(made), token.token, token.id, moment(token.expires_ms))

    def token(self, gateway_id: str, body: TokenRequest, caller: Caller) -> TokenMade:
        visible(caller, gateway_id)
        made = self._gateways.token(gateway_id, ttl_s=body.ttl_s)
        return TokenMade(made.id, made.token, moment(made.expires_ms))

    def change(self, gateway_id: str, body: GatewayPatch, caller: Caller, if_match: int) -> GatewayItem:
        visible(caller, gateway_id)
        changed = given(body)
        before = self._gateways.get(gateway_id)
        if "groups" in changed:
            changed["groups"] = sorted(set(changed["groups"]))
            self._check(caller, None, frozenset(changed["groups"]) ^ frozenset(before.groups))
        if changed.get("asset", before.row.asset) != before.row.asset:
            self._check(caller, changed["asset"], frozenset())
        try:
            return self._item(self._gateways.change(gateway_id, changed, expected=if_match, by=caller.name))
        except UnfitError as error:
            raise unfit(error) from None

    def retire(self, gateway_id: str, caller: Caller, if_match: int) -> None:
        visible(caller, gateway_id)
        self._gateways.retire(gateway_id, expected=if_match, by=caller.name)

    def _check(self, caller: Caller, asset: str | None, groups: frozenset[str]) -> None:
        """A caller of some groups may only put things where it sees them."""
        if caller.groups is not None and (foreign := sorted(groups - caller.groups)):
            raise Problem(403, f"This caller was not given the group {foreign[0]}.")
        if asset is not None and not self._assets.sight(caller.gateways).sees(asset):
            raise Problem(403, f"This caller's gateways have nothing to do with the asset {asset}.")


def visible(caller: Caller, gateway_id: str) -> None:
    """What a caller was not given is not there."""
    if not caller.sees(gateway_id):
        raise Problem(404, f"There is no gateway {gateway_id}.")


def given(body: msgspec.Struct) -> dict[str, Any]:
    return {name: value for name in body.__struct_fields__ if (value := getattr(body, name)) is not UNSET}


def _fits(order: Order, value: str | int | None) -> bool:
    return value is None or isinstance(value, str) == texts(order)


def _wanted(query: GatewayQuery) -> Wanted:
    return Wanted(
        statuses=frozenset(query.status),
        ways=frozenset(query.configuration),
        group=query.group,
        asset=query.asset,
        text=(query.q or "").strip(),
        retired=query.retired,
        certificate_days=query.certificate_days,
        backlog=query.backlog,
        clock_err_ms=query.clock_err_ms,
        silent=query.silent,
        quiet_s=query.quiet_s,
        version=query.version,
    )


def _standing(one: Standing) -> GatewayStanding:
    said = one.presence
    return GatewayStanding(
        status=one.status,
        why=one.why,
        connected=moment(said.connected_ms if said else None),
        heard=moment(said.heard_ms if said else None),
        left=moment(said.left_ms if said else None),
        data=moment(one.data_ms),
        readings=one.readings,
        version=said.version if said else None,
        backlog_batches=said.backlog_batches if said else None,
        backlog_bytes=said.backlog_bytes if said else None,
        backlog_oldest=moment(said.backlog_oldest_ms if said else None),
        clock_err_ms=said.clock_err_ms if said else None,
        sensors_silent=said.sensors_silent if said else None,
        configuration=one.configuration,
        paused=moment(one.paused_ms),
    )


def _item(one: GatewayRow, found: Found | None) -> GatewayItem:
    row = one.row
    return GatewayItem(
        id=row.id,
        name=row.name,
        asset=row.asset,
        groups=list(one.groups),
        hardware=row.hardware,
        serial=row.serial,
        created=moment(row.created_ms),
        enrolled=moment(row.enrolled_ms),
        retired=moment(row.retired_ms),
        certificate_expires=moment(row.certificate_expires_ms),
        standing=None if found is None else _standing(found.standing),
        etag=etag(row.version),
    )
