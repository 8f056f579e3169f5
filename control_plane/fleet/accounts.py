"""Who may use the REST API: users with passwords, programs with API tokens.

A token made by a user never may more than its user may now: it ends with the user, and shrinks with the user's role and
groups.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from sqlalchemy import Connection, Row, delete, insert, select, update

from control_plane.clock import Clock
from control_plane.errors import NotFound
from control_plane.fleet.edits import Edits
from control_plane.fleet.join_tokens import digest
from control_plane.fleet.rights import Caller, Role
from control_plane.store.engine import Store
from control_plane.store.tables import api_token, browser_session, gateway_group_member, user

__all__ = ["Accounts", "Caller", "NewApiToken", "Role", "caller_of", "slugs"]

ADMIN_NAME = "admin"
DAY_MS = 86_400_000
TOKEN_PREFIX = "ct1."  # noqa: S105 - what a token begins with


class NewApiToken(NamedTuple):
    id: str
    token: str
    role: Role
    expires_ms: int | None


class Accounts:
    """Synchronous and thread-safe. Passwords are kept as argon2id, tokens as SHA-256."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._hasher = PasswordHasher()

    def ensure_admin(self) -> str | None:
        """The password of a newly made `admin`, to be shown once; None when there is a user already."""
        with self._store.read() as connection:
            if connection.execute(select(user.c.name).limit(1)).first() is not None:
                return None
        return self.reset_password(ADMIN_NAME)

    def reset_password(self, name: str) -> str:
        """A new random password for `name`, an admin, made when there is none; the old one's sessions end."""
        password = secrets.token_urlsafe(15)
        row: dict[str, Any] = {
            "name": name,
            "password_hash": self._hasher.hash(password),
            "role": Role.ADMIN.word,
            "created_ms": self._clock.now_ms(),
        }
        edits = Edits("user")
        with self._store.write() as connection:
            before = connection.execute(select(user.c.version).where(user.c.name == name)).scalar()
            row["version"] = max((before or 0) + 1, edits.next_version(connection, name))
            body = {"role": Role.ADMIN.word, "groups": None}
            edits.record(connection, name, row["version"], body, by="", now_ms=self._clock.now_ms())
            connection.execute(delete(user).where(user.c.name == name))
            connection.execute(delete(browser_session).where(browser_session.c.user_name == name))
            connection.execute(insert(user).values(row))
        return password

    def authenticate(self, name: str, password: str) -> Caller | None:
        """About 50 ms whether or not there is such a user."""
        with self._store.read() as connection:
            row = connection.execute(select(user).where(user.c.name == name)).one_or_none()
        if row is None:
            self._hasher.hash(password)  # as slow as a verification: the time must not tell which names exist
            return None
        try:
            self._hasher.verify(row.password_hash, password)
        except VerificationError:
            return None
        with self._store.read() as connection:
            return caller_of(connection, row.name, row.name, Role.named(row.role), slugs(row.groups), user=row.name)

    def hashed(self, password: str) -> str:
        return self._hasher.hash(password)

    def create_token(
        self,
        *,
        name: str,
        role: Role,
        ttl_days: float | None = None,
        owner: str | None = None,
        permissions: frozenset[str] | None = None,
        groups: frozenset[str] | None = None,
    ) -> NewApiToken:
        """An API token, shown once; without `ttl_days` it lasts until revoked. None is no restriction."""
        token, token_id = TOKEN_PREFIX + secrets.token_urlsafe(24), secrets.token_hex(6)
        now = self._clock.now_ms()
        expires_ms = None if ttl_days is None else now + int(ttl_days * DAY_MS)
        row = {
            "id": token_id,
            "secret_sha256": digest(token),
            "name": name,
            "role": role.word,
            "created_ms": now,
            "expires_ms": expires_ms,
            "user_name": owner,
            "permissions": array(permissions),
            "groups": array(groups),
        }
        with self._store.write() as connection:
            connection.execute(insert(api_token).values(row))
        return NewApiToken(token_id, token, role, expires_ms)

    def caller(self, token: str) -> Caller | None:
        """Whose token this is; None when unknown, expired or revoked, or when its user is gone or may less now."""
        query = (
            select(api_token, user.c.role.label("user_role"), user.c.groups.label("user_groups"))
            .join(user, user.c.name == api_token.c.user_name, isouter=True)
            .where(api_token.c.secret_sha256 == digest(token), api_token.c.revoked_ms.is_(None))
        )
        with self._store.read() as connection:
            row = connection.execute(query).one_or_none()
            if row is None or (row.expires_ms is not None and row.expires_ms <= self._clock.now_ms()):
                return None
            role, groups = Role.named(row.role), slugs(row.groups)
            if row.user_name is not None:
                if row.user_role is None:
                    return None
                bounded, groups = _bounded(role, Role.named(row.user_role)), both(groups, slugs(row.user_groups))
                if bounded is None:
                    return None
                role = bounded
            caller = caller_of(connection, row.id, row.name, role, groups, user=row.user_name)
        return caller._replace(permissions=slugs(row.permissions), expires_ms=row.expires_ms)

    def tokens(self, *, after: str, limit: int) -> Sequence[Row[tuple[object, ...]]]:
        """Rows by id above `after`, revoked ones included."""
        query = select(api_token).where(api_token.c.id > after).order_by(api_token.c.id).limit(limit)
        with self._store.read() as connection:
            return connection.execute(query).all()

    def revoke_token(self, token_id: str) -> None:
        """Raises NotFound. Twice is once."""
        now = self._clock.now_ms()
        with self._store.write() as connection:
            known = connection.execute(select(api_token.c.id).where(api_token.c.id == token_id)).one_or_none()
            if known is None:
                raise NotFound(f"There is no API token {token_id}.")
            connection.execute(
                update(api_token)
                .where(api_token.c.id == token_id, api_token.c.revoked_ms.is_(None))
                .values(revoked_ms=now)
            )


def slugs(column: str | None) -> frozenset[str] | None:
    return None if column is None else frozenset(msgspec.json.decode(column, type=list[str]))


def array(some: frozenset[str] | None) -> str | None:
    return None if some is None else msgspec.json.encode(sorted(some)).decode()


def both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    """What two restrictions leave; None restricts nothing."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _bounded(role: Role, bound: Role) -> Role | None:
    """What is left of a token's role; None: nothing, as an integrator's rights are no part of a viewer's."""
    if bound.covers(role):
        return role
    return None if role is Role.INTEGRATOR else bound


def caller_of(
    connection: Connection, id_: str, name: str, role: Role, groups: frozenset[str] | None, **more: Any
) -> Caller:
    """A caller with the gateways that are in its groups now."""
    gateways = None
    if groups is not None:
        mine = select(gateway_group_member.c.gateway).where(gateway_group_member.c.slug.in_(sorted(groups)))
        gateways = frozenset(connection.execute(mine).scalars())
    return Caller(id_, name, role, gateways=gateways, groups=groups, **more)
