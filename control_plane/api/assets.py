from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from control_plane.api.binding import Permission, Route
from control_plane.api.fields import AssetId, Attrs, Name, etag
from control_plane.api.paging import Page, PageQuery, moment, page
from control_plane.api.problems import Problem
from control_plane.fleet.assets import AssetFields, Assets, parent_of
from control_plane.fleet.rights import Caller

Kind = Literal["vehicle", "compartment", "warehouse", "other"]


class AssetItem(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    parent: str | None
    kind: Kind
    name: str
    attrs: dict[str, str]
    created: datetime
    etag: str


class AssetQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: Kind | None = None
    under: str | None = None
    """Parts of this asset, at any depth."""


class AssetBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: Kind
    name: Name = ""
    attrs: Attrs = {}


class AssetRoutes:
    def __init__(self, *, assets: Assets) -> None:
        self._assets = assets

    def routes(self) -> tuple[Route, ...]:
        one = "/assets/{asset_id}"
        return (
            Route(
                method="GET",
                path="/assets",
                view=self.list,
                permission=Permission.VIEWER,
                summary="Assets, by id; an asset's parts follow it",
            ),
            Route(method="GET", path=one, view=self.get, permission=Permission.VIEWER, summary="One asset", deep=True),
            Route(
                method="PUT",
                path=one,
                view=self.save,
                permission=Permission.OPERATOR,
                summary='Make an asset (If-Match: "0") or change it; its parent is the path without the last slug',
                deep=True,
            ),
            Route(
                method="DELETE",
                path=one,
                view=self.delete,
                permission=Permission.OPERATOR,
                summary="Delete an asset that has no parts and nothing mounted on it",
                deep=True,
            ),
        )

    def list(self, query: AssetQuery, caller: Caller) -> Page[AssetItem]:
        (after,) = query.after(str) or ("",)
        sight = self._assets.sight(caller.gateways)
        rows = self._assets.listed(after=after, limit=query.limit + 1, kind=query.kind, under=query.under, sight=sight)
        return page(rows, limit=query.limit, item=_item, key=lambda row: (row.id,))

    def get(self, asset_id: AssetId, caller: Caller) -> AssetItem:
        if not self._assets.sight(caller.gateways).sees(asset_id):
            raise Problem(404, f"There is no asset {asset_id}.")
        return _item(self._assets.get(asset_id))

    def save(self, asset_id: AssetId, body: AssetBody, caller: Caller, if_match: int) -> AssetItem:
        self._check(caller, asset_id)
        fields = AssetFields(body.kind, body.name, body.attrs)
        return _item(self._assets.save(asset_id, fields, expected=if_match, by=caller.name))

    def delete(self, asset_id: AssetId, caller: Caller, if_match: int) -> None:
        self._check(caller, asset_id)
        self._assets.delete(asset_id, expected=if_match, by=caller.name)

    def _check(self, caller: Caller, asset_id: str) -> None:
        if not self._assets.sight(caller.gateways).edits(asset_id):
            raise Problem(403, f"None of this caller's gateways is mounted on {asset_id} or what it is a part of.")


def _item(row: Any) -> AssetItem:
    return AssetItem(
        id=row.id,
        parent=parent_of(row.id),
        kind=row.kind,
        name=row.name,
        attrs=msgspec.json.decode(row.attrs, type=dict[str, str]),
        created=moment(row.created_ms),
        etag=etag(row.version),
    )
