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
from control_plane.fleet.revisions import UnfitError
from control_plane.fleet.rights import Caller

TokenLife = Annotated[int, Meta(ge=60, le=90 * 86_400)]


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
    etag: str


class GatewayQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    group: str | None = None
    asset: str | None = None
    """On this asset or a part of it."""
    retired: bool | None = None


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
    def __init__(self, *, gateways: Gateways, assets: Assets) -> None:
        self._gateways = gateways
        self._assets = assets

    def routes(self) -> tuple[Route, ...]:
        one = "/gateways/{gateway_id}"
        return (
            Route(
                method="GET",
                path="/gateways",
                view=self.list,
                permission=Permission.VIEWER,
                summary="The registry, by id",
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
        (after,) = query.after(str) or ("",)
        rows = self._gateways.listed(
            caller, after=after, limit=query.limit + 1, group=query.group, asset=query.asset, retired=query.retired
        )
        return page(rows, limit=query.limit, item=_item, key=lambda one: (one.row.id,))

    def get(self, gateway_id: str, caller: Caller) -> GatewayItem:
        visible(caller, gateway_id)
        return _item(self._gateways.get(gateway_id))

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
        return GatewayMade(_item(made), token.token, token.id, moment(token.expires_ms))

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
            return _item(self._gateways.change(gateway_id, changed, expected=if_match, by=caller.name))
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


def _item(one: GatewayRow) -> GatewayItem:
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
        etag=etag(row.version),
    )
