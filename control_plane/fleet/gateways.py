"""The registry's gateways: what people say of them. How they stand is presence's business."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, Select, func, insert, select, update

from control_plane.clock import Clock
from control_plane.errors import Conflict, NotFound
from control_plane.fleet import assets
from control_plane.fleet.edits import Edits
from control_plane.fleet.enrolment import Enrolment, new_gateway_id
from control_plane.fleet.join_tokens import NewJoinToken
from control_plane.fleet.revisions import Revisions
from control_plane.fleet.rights import Caller
from control_plane.store.engine import Store
from control_plane.store.tables import certificate, gateway, gateway_group_member

EDITS = Edits("gateway")


class GatewayRow(NamedTuple):
    row: Row[Any]
    groups: tuple[str, ...]

    @property
    def body(self) -> dict[str, Any]:
        """What people edit of it."""
        return {"name": self.row.name, "asset": self.row.asset, "groups": list(self.groups)}


class Gateways:
    """Synchronous and thread-safe."""

    def __init__(self, *, store: Store, clock: Clock, enrolment: Enrolment, revisions: Revisions) -> None:
        self._store = store
        self._clock = clock
        self._enrolment = enrolment
        self._revisions = revisions

    def listed(
        self, caller: Caller, *, after: str, limit: int, group: str | None, asset: str | None, retired: bool | None
    ) -> Sequence[GatewayRow]:
        """By id above `after`."""
        chosen = _registry().where(gateway.c.id > after, *caller.within(gateway.c.id))
        if group is not None:
            members = select(gateway_group_member.c.gateway).where(gateway_group_member.c.slug == group)
            chosen = chosen.where(gateway.c.id.in_(members))
        if asset is not None:
            below = gateway.c.asset.startswith(asset + "/", autoescape=True)
            chosen = chosen.where((gateway.c.asset == asset) | below)
        if retired is not None:
            chosen = chosen.where(gateway.c.retired_ms.is_not(None) if retired else gateway.c.retired_ms.is_(None))
        with self._store.read() as connection:
            rows = connection.execute(chosen.limit(limit)).all()
            groups = _groups(connection, [row.id for row in rows])
        return [GatewayRow(row, groups.get(row.id, ())) for row in rows]

    def some(self, ids: Sequence[str]) -> Sequence[GatewayRow]:
        """Of at most a thousand, in any order; whom the registry does not know is left out."""
        with self._store.read() as connection:
            rows = connection.execute(_registry().where(gateway.c.id.in_(ids))).all()
            groups = _groups(connection, [row.id for row in rows])
        return [GatewayRow(row, groups.get(row.id, ())) for row in rows]

    def get(self, gateway_id: str) -> GatewayRow:
        with self._store.read() as connection:
            return _known(connection, gateway_id)

    def change(self, gateway_id: str, changed: Mapping[str, Any], *, expected: int, by: str) -> GatewayRow:
        """`changed`: any of name, asset, groups. Raises NotFound, Outdated, Rejected, UnfitError, Conflict."""

        def write(connection: Connection) -> None:
            self._write(connection, gateway_id, changed, expected=expected, by=by)

        before = self.get(gateway_id)
        slugs = frozenset(changed.get("groups", before.groups))
        if slugs == frozenset(before.groups):
            with self._store.write() as connection:
                write(connection)
        else:
            self._revisions.regroup(gateway_id, slugs, by=by, also=write)
        return self.get(gateway_id)

    def _write(
        self, connection: Connection, gateway_id: str, changed: Mapping[str, Any], *, expected: int, by: str
    ) -> None:
        now = self._clock.now_ms()
        before = _known(connection, gateway_id, lock=True)
        EDITS.check(connection, gateway_id, expected=expected, version=before.row.version, current=before.body)
        if before.row.retired_ms is not None:
            raise Conflict(f"Gateway {gateway_id} is retired; its record stays as it was.")
        after = {**before.body, **changed}
        if after["asset"] != before.row.asset:
            assets.check_exists(connection, after["asset"])
        EDITS.record(connection, gateway_id, before.row.version, before.body, by="", now_ms=now)
        values = {"name": after["name"], "asset": after["asset"], "version": before.row.version + 1}
        connection.execute(update(gateway).where(gateway.c.id == gateway_id).values(values))
        EDITS.record(connection, gateway_id, before.row.version + 1, after, by=by, now_ms=now)

    def register(
        self, *, name: str, asset: str | None, groups: frozenset[str], ttl_s: int, by: str
    ) -> tuple[GatewayRow, NewJoinToken]:
        """Ahead of the box: its id can be configured before it comes. Raises Rejected, NotFound, UnfitError."""
        gateway_id, now, made = new_gateway_id(), self._clock.now_ms(), []

        def write(connection: Connection) -> None:
            assets.check_exists(connection, asset)
            blank = {"hardware": "", "serial": "", "signing_key": b""}
            row = {"id": gateway_id, "name": name, "asset": asset, "created_ms": now, **blank}
            connection.execute(insert(gateway).values(row))
            body = {"name": name, "asset": asset, "groups": sorted(groups)}
            EDITS.record(connection, gateway_id, 1, body, by=by, now_ms=now)
            tokens = self._enrolment.join_tokens
            made.append(tokens.add(connection, gateway_name=name, asset=asset, ttl_s=ttl_s, gateway_id=gateway_id))

        self._revisions.regroup(gateway_id, groups, by=by, also=write)
        return self.get(gateway_id), made[-1]

    def token(self, gateway_id: str, *, ttl_s: int) -> NewJoinToken:
        """Another join token while the box has not come. Raises NotFound, Conflict."""
        with self._store.write() as connection:
            known = _known(connection, gateway_id, lock=True).row
            if known.retired_ms is not None:
                raise Conflict(f"Gateway {gateway_id} is retired.")
            if known.enrolled_ms is not None:
                raise Conflict(f"Gateway {gateway_id} has come already; it renews its certificate by itself.")
            tokens = self._enrolment.join_tokens
            return tokens.add_again(connection, gateway_id=gateway_id, name=known.name, asset=known.asset, ttl_s=ttl_s)

    def retire(self, gateway_id: str, *, expected: int, by: str) -> None:
        """Its certificates are revoked, what it delivered stays. Raises NotFound, Outdated. Twice is once."""
        with self._store.write() as connection:
            before = _known(connection, gateway_id, lock=True)
            EDITS.check(connection, gateway_id, expected=expected, version=before.row.version, current=before.body)
            if before.row.retired_ms is None:
                now = self._clock.now_ms()
                EDITS.record(connection, gateway_id, before.row.version, before.body, by="", now_ms=now)
                version = before.row.version + 1
                connection.execute(update(gateway).where(gateway.c.id == gateway_id).values(version=version))
                EDITS.record(connection, gateway_id, version, before.body, by=by, now_ms=now)
        self._enrolment.revoke(gateway_id)


def _known(connection: Connection, gateway_id: str, *, lock: bool = False) -> GatewayRow:
    if lock:
        connection.execute(select(gateway.c.id).where(gateway.c.id == gateway_id).with_for_update())
    row = connection.execute(_registry().where(gateway.c.id == gateway_id)).one_or_none()
    if row is None:
        raise NotFound(f"There is no gateway {gateway_id}.")
    return GatewayRow(row, _groups(connection, [gateway_id]).get(gateway_id, ()))


def _groups(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    member = gateway_group_member
    query = select(member.c.gateway, member.c.slug).where(member.c.gateway.in_(ids)).order_by(member.c.slug)
    found: dict[str, tuple[str, ...]] = {}
    for row in connection.execute(query):
        found[row.gateway] = (*found.get(row.gateway, ()), row.slug)
    return found


def _registry() -> Select[Any]:
    expires_ms = (
        select(func.max(certificate.c.not_after_ms))
        .where(certificate.c.gateway == gateway.c.id, certificate.c.revoked_ms.is_(None))
        .scalar_subquery()
        .label("certificate_expires_ms")
    )
    return select(gateway, expires_ms).order_by(gateway.c.id)
