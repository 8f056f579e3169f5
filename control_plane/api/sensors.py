from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from control_plane.api.binding import Permission, Route
from control_plane.api.fields import AssetId, Name, Notes, etag
from control_plane.api.gateways import given, visible
from control_plane.api.paging import Page, PageQuery, page
from control_plane.api.problems import Problem
from control_plane.fleet.assets import Assets
from control_plane.fleet.rights import Caller
from control_plane.fleet.sensors import Sensor, Sensors


class SensorSeries(msgspec.Struct, frozen=True):
    key: str
    quantity: str
    unit: str
    period_ms: int


class SensorItem(msgspec.Struct, frozen=True, kw_only=True):
    gateway: str
    sensor: str
    name: str
    asset: str | None
    """Assigned here, else as the configuration says."""
    notes: str
    declared: bool
    """Whether the gateway ever declared a series of it."""
    configured: bool | None
    """Whether the wanted configuration has it; null: that is not known here."""
    driver: str | None
    profile: str | None
    series: list[SensorSeries]
    etag: str


class SensorQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    gateway: str | None = None
    asset: str | None = None
    """On this asset or a part of it."""


class SensorPatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays."""

    name: Name | UnsetType = UNSET
    asset: AssetId | UnsetType | None = UNSET
    notes: Notes | UnsetType = UNSET


class SensorRoutes:
    def __init__(self, *, sensors: Sensors, assets: Assets) -> None:
        self._sensors = sensors
        self._assets = assets

    def routes(self) -> tuple[Route, ...]:
        one = "/gateways/{gateway_id}/sensors/{sensor}"
        return (
            Route(
                method="GET",
                path="/sensors",
                view=self.list,
                permission=Permission.VIEWER,
                summary="Sensors of all gateways, declared or configured, by gateway and id",
            ),
            Route(
                method="GET",
                path="/gateways/{gateway_id}/sensors",
                view=self.of_gateway,
                permission=Permission.VIEWER,
                summary="Sensors of one gateway",
            ),
            Route(method="GET", path=one, view=self.get, permission=Permission.VIEWER, summary="One sensor"),
            Route(
                method="PATCH",
                path=one,
                view=self.change,
                permission=Permission.OPERATOR,
                summary="Change a sensor's name, asset or notes",
            ),
        )

    def list(self, query: SensorQuery, caller: Caller) -> Page[SensorItem]:
        after = query.after(str, str) or ("", "")
        found = self._sensors.listed(
            caller, after=(after[0], after[1]), limit=query.limit + 1, only=query.gateway, asset=query.asset
        )
        return page(found, limit=query.limit, item=_item, key=lambda one: (one.gateway, one.sensor))

    def of_gateway(self, gateway_id: str, query: PageQuery, caller: Caller) -> Page[SensorItem]:
        visible(caller, gateway_id)
        asked = SensorQuery(gateway=gateway_id, limit=query.limit, cursor=query.cursor)
        return self.list(asked, caller)

    def get(self, gateway_id: str, sensor: str, caller: Caller) -> SensorItem:
        visible(caller, gateway_id)
        return _item(self._sensors.get(gateway_id, sensor))

    def change(self, gateway_id: str, sensor: str, body: SensorPatch, caller: Caller, if_match: int) -> SensorItem:
        visible(caller, gateway_id)
        changed = given(body)
        asset: Any = changed.get("asset")
        if asset is not None and not self._assets.sight(caller.gateways).sees(asset):
            raise Problem(403, f"This caller's gateways have nothing to do with the asset {asset}.")
        return _item(self._sensors.change(gateway_id, sensor, changed, expected=if_match, by=caller.name))


def _item(one: Sensor) -> SensorItem:
    return SensorItem(
        gateway=one.gateway,
        sensor=one.sensor,
        name=one.name,
        asset=one.asset,
        notes=one.notes,
        declared=bool(one.declared),
        configured=one.configured,
        driver=_text(one.ordered.get("driver")),
        profile=_text(one.ordered.get("profile")),
        series=[SensorSeries(*series) for series in one.declared],
        etag=etag(one.version),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
