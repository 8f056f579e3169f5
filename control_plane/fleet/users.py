"""People: their passwords, roles and the groups they were given. There is always one who may do everything."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from control_plane.clock import Clock
from control_plane.errors import Conflict, NotFound, Rejected
from control_plane.fleet.accounts import Accounts, array, slugs
from control_plane.fleet.edits import Edits
from control_plane.fleet.rights import Role
from control_plane.store.engine import Store
from control_plane.store.tables import api_token, browser_session, gateway_group, user

EDITS = Edits("user")


class UserFields(NamedTuple):
    """`groups` None: the whole fleet."""

    role: Role
    groups: frozenset[str] | None


class NewUser(NamedTuple):
    password: str
    version: int


class Users:
    """Synchronous and thread-safe."""

    def __init__(self, *, store: Store, accounts: Accounts, clock: Clock) -> None:
        self._store = store
        self._accounts = accounts
        self._clock = clock

    def listed(self, *, after: str, limit: int) -> Sequence[Row[Any]]:
        query = select(user).where(user.c.name > after).order_by(user.c.name).limit(limit)
        with self._store.read() as connection:
            return connection.execute(query).all()

    def get(self, name: str) -> Row[Any]:
        with self._store.read() as connection:
            return _row(connection, name)

    def create(self, name: str, fields: UserFields, *, password: str | None, by: str) -> NewUser:
        """With `password`, or a random one that is shown once. Raises Conflict, Rejected (an unknown group)."""
        password = password or secrets.token_urlsafe(15)
        hashed, now = self._accounts.hashed(password), self._clock.now_ms()
        with self._store.write() as connection:
            if connection.execute(select(user.c.name).where(user.c.name == name)).one_or_none() is not None:
                raise Conflict(f"There is a user {name} already.")
            _check_groups(connection, fields.groups)
            version = EDITS.next_version(connection, name)
            row = {"name": name, "password_hash": hashed, "created_ms": now, "version": version, **_columns(fields)}
            connection.execute(insert(user).values(row))
            EDITS.record(connection, name, version, _body(fields), by=by, now_ms=now)
        return NewUser(password, version)

    def change(self, name: str, fields: UserFields, *, password: str | None, expected: int, by: str) -> Row[Any]:
        """A new password ends the user's sessions. Raises NotFound, Outdated, Rejected, Conflict (the last admin)."""
        hashed, now = self._accounts.hashed(password) if password is not None else None, self._clock.now_ms()
        with self._store.write() as connection:
            before = _row(connection, name, lock=True)
            EDITS.check(connection, name, expected=expected, version=before.version, current=body_of(before))
            _check_groups(connection, fields.groups)
            EDITS.record(connection, name, before.version, body_of(before), by="", now_ms=now)
            values = {**_columns(fields), "version": before.version + 1}
            if hashed is not None:
                values["password_hash"] = hashed
                connection.execute(delete(browser_session).where(browser_session.c.user_name == name))
            connection.execute(update(user).where(user.c.name == name).values(values))
            _check_somebody_is_left(connection, before)
            EDITS.record(connection, name, before.version + 1, _body(fields), by=by, now_ms=now)
            return _row(connection, name)

    def delete(self, name: str, *, expected: int, by: str) -> None:
        """The user's tokens and sessions end. Raises NotFound, Outdated, Conflict (the last admin)."""
        now = self._clock.now_ms()
        with self._store.write() as connection:
            before = _row(connection, name, lock=True)
            EDITS.check(connection, name, expected=expected, version=before.version, current=body_of(before))
            EDITS.record(connection, name, before.version, body_of(before), by="", now_ms=now)
            EDITS.record(connection, name, before.version + 1, None, by=by, now_ms=now)
            connection.execute(delete(user).where(user.c.name == name))
            _check_somebody_is_left(connection, before)
            connection.execute(delete(browser_session).where(browser_session.c.user_name == name))
            mine = (api_token.c.user_name == name, api_token.c.revoked_ms.is_(None))
            connection.execute(update(api_token).where(*mine).values(revoked_ms=now))


def body_of(row: Row[Any]) -> dict[str, Any]:
    return _body(UserFields(Role.named(row.role), slugs(row.groups)))


def _body(fields: UserFields) -> dict[str, Any]:
    return {"role": fields.role.word, "groups": None if fields.groups is None else sorted(fields.groups)}


def _columns(fields: UserFields) -> dict[str, Any]:
    return {"role": fields.role.word, "groups": array(fields.groups)}


def _row(connection: Connection, name: str, *, lock: bool = False) -> Row[Any]:
    query = select(user).where(user.c.name == name)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound(f"There is no user {name}.")
    return row


def _check_groups(connection: Connection, groups: frozenset[str] | None) -> None:
    known = set(connection.execute(select(gateway_group.c.slug)).scalars())
    if unknown := sorted((groups or frozenset()) - known):
        raise Rejected(f"There is no group {unknown[0]}.")


def _check_somebody_is_left(connection: Connection, before: Row[Any]) -> None:
    if before.role != Role.ADMIN.word or before.groups is not None:
        return
    whole = (user.c.role == Role.ADMIN.word, user.c.groups.is_(None))
    if not connection.execute(select(func.count()).select_from(user).where(*whole)).scalar():
        raise Conflict("Nobody would be left who may do everything. Make another administrator first.")
