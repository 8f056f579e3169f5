from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Select, func, select

from control_plane.api.binding import Permission, Route
from control_plane.api.paging import Page, PageQuery, moment, page
from control_plane.errors import NotFound
from control_plane.fleet.enrolment import Enrolment
from control_plane.store.engine import Store
from control_plane.store.tables import certificate, gateway


class GatewayItem(msgspec.Struct, frozen=True):
    id: str
    name: str
    asset: str | None
    hardware: str
    serial: str
    created: datetime
    retired: datetime | None
    certificate_expires: datetime | None
    """Of the newest certificate not revoked."""


class Gateways:
    def __init__(self, *, store: Store, enrolment: Enrolment) -> None:
        self._store = store
        self._enrolment = enrolment

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="GET",
                path="/gateways",
                view=self.list,
                permission=Permission.VIEWER,
                summary="The registry, by id",
            ),
            Route(
                method="GET",
                path="/gateways/{gateway_id}",
                view=self.get,
                permission=Permission.VIEWER,
                summary="One gateway",
                problems=(404,),
            ),
            Route(
                method="DELETE",
                path="/gateways/{gateway_id}",
                view=self.retire,
                permission=Permission.ADMIN,
                summary="Retire a gateway and revoke its certificates",
                problems=(404,),
            ),
        )

    def list(self, query: PageQuery) -> Page[GatewayItem]:
        (after,) = query.after(str) or ("",)
        with self._store.read() as connection:
            rows = connection.execute(_registry().where(gateway.c.id > after).limit(query.limit + 1)).all()
        return page(rows, limit=query.limit, item=_item, key=lambda row: (row.id,))

    def get(self, gateway_id: str) -> GatewayItem:
        with self._store.read() as connection:
            row = connection.execute(_registry().where(gateway.c.id == gateway_id)).one_or_none()
        if row is None:
            raise NotFound(f"There is no gateway {gateway_id}.")
        return _item(row)

    def retire(self, gateway_id: str) -> None:
        self._enrolment.revoke(gateway_id)


def _registry() -> Select[Any]:
    expires_ms = (
        select(func.max(certificate.c.not_after_ms))
        .where(certificate.c.gateway == gateway.c.id, certificate.c.revoked_ms.is_(None))
        .scalar_subquery()
        .label("certificate_expires_ms")
    )
    return select(gateway, expires_ms).order_by(gateway.c.id)


def _item(row: Any) -> GatewayItem:
    return GatewayItem(
        id=row.id,
        name=row.name,
        asset=row.asset,
        hardware=row.hardware,
        serial=row.serial,
        created=moment(row.created_ms),
        retired=moment(row.retired_ms),
        certificate_expires=moment(row.certificate_expires_ms),
    )
