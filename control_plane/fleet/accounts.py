"""Who may use the REST API: users with passwords, programs with API tokens, and three roles."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from sqlalchemy import Row, delete, insert, select, update

from control_plane.clock import Clock
from control_plane.errors import NotFound
from control_plane.fleet.join_tokens import digest
from control_plane.store.engine import Store
from control_plane.store.tables import api_token, browser_session, user

ADMIN_NAME = "admin"
DAY_MS = 86_400_000
TOKEN_PREFIX = "ct1."  # noqa: S105 - what a token begins with


class Role(IntEnum):
    """Each may what those below it may."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        return self.name.lower()

    @classmethod
    def named(cls, word: str) -> Role:
        return cls[word.upper()]


class Caller(NamedTuple):
    """An authenticated request's author. `id` is the token's id or the user's name."""

    id: str
    name: str
    role: Role


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
        row = {
            "name": name,
            "password_hash": self._hasher.hash(password),
            "role": Role.ADMIN.word,
            "created_ms": self._clock.now_ms(),
        }
        with self._store.write() as connection:
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
        return Caller(row.name, row.name, Role.named(row.role))

    def create_token(self, *, name: str, role: Role, ttl_days: float | None = None) -> NewApiToken:
        """An API token, shown once; without `ttl_days` it lasts until revoked."""
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
        }
        with self._store.write() as connection:
            connection.execute(insert(api_token).values(row))
        return NewApiToken(token_id, token, role, expires_ms)

    def caller(self, token: str) -> Caller | None:
        """Whose token this is; None when unknown, expired or revoked."""
        query = select(api_token).where(api_token.c.secret_sha256 == digest(token), api_token.c.revoked_ms.is_(None))
        with self._store.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None or (row.expires_ms is not None and row.expires_ms <= self._clock.now_ms()):
            return None
        return Caller(row.id, row.name, Role.named(row.role))

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
