"""Join tokens: what a technician types once to bring a gateway into the fleet.

`cj1.<secret>.<SHA-256 of the fleet CA>`: the second part lets a box that trusts nobody yet recognise this server.
Only the secret's hash is kept. One use; within its life the same CSR again is a retry and gets a new signature.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, Row, insert, select, update

from control_plane.clock import Clock
from control_plane.errors import Conflict, Denied, DeniedReason, NotFound
from control_plane.store.engine import Store
from control_plane.store.tables import join_token

DAY_S = 86_400
UNKNOWN, USED, EXPIRED = DeniedReason.UNKNOWN, DeniedReason.USED, DeniedReason.EXPIRED


class NewJoinToken(NamedTuple):
    id: str
    token: str
    expires_ms: int


class JoinTokens:
    def __init__(self, *, store: Store, clock: Clock, ca_sha256: str) -> None:
        self._store = store
        self._clock = clock
        self._ca_sha256 = ca_sha256

    def create(self, *, gateway_name: str, asset: str | None = None, ttl_s: int = DAY_S) -> NewJoinToken:
        """A token for one gateway, shown once."""
        secret, now = secrets.token_urlsafe(24), self._clock.now_ms()
        token_id, expires_ms = secrets.token_hex(6), now + ttl_s * 1000
        row = {
            "id": token_id,
            "secret_sha256": digest(secret),
            "gateway_name": gateway_name,
            "asset": asset,
            "created_ms": now,
            "expires_ms": expires_ms,
        }
        with self._store.write() as connection:
            connection.execute(insert(join_token).values(row))
        return NewJoinToken(token_id, f"cj1.{secret}.{self._ca_sha256}", expires_ms)

    def listed(self, *, after: str, limit: int) -> Sequence[Row[tuple[object, ...]]]:
        """Rows by id above `after`."""
        query = select(join_token).where(join_token.c.id > after).order_by(join_token.c.id).limit(limit)
        with self._store.read() as connection:
            return connection.execute(query).all()

    def still_open(self, *, limit: int) -> Sequence[Row[tuple[object, ...]]]:
        """Rows neither used nor expired, the newest first."""
        query = select(join_token).where(join_token.c.used_ms.is_(None), join_token.c.expires_ms > self._clock.now_ms())
        with self._store.read() as connection:
            return connection.execute(query.order_by(join_token.c.created_ms.desc()).limit(limit)).all()

    def revoke(self, token_id: str) -> None:
        """End an open token now. Raises NotFound, and Conflict once a gateway has used it. Twice is once."""
        now = self._clock.now_ms()
        with self._store.write() as connection:
            row = connection.execute(select(join_token).where(join_token.c.id == token_id)).one_or_none()
            if row is None:
                raise NotFound(f"There is no join token {token_id}.")
            if row.used_ms is not None:
                raise Conflict(f"Gateway {row.used_by} has used this join token already. Retire the gateway instead.")
            connection.execute(
                update(join_token)
                .where(join_token.c.id == token_id, join_token.c.expires_ms > now)
                .values(expires_ms=now)
            )

    def use(self, connection: Connection, *, secret: str, csr_sha256: str, gateway_id: str) -> Row[tuple[object, ...]]:
        """Claim the token for `gateway_id` in the caller's transaction.

        Returns the token's row; its `used_by` names another gateway than `gateway_id` when this is a retry.
        Raises Denied: unknown, used (by another CSR) or expired.
        """
        by_secret = join_token.c.secret_sha256 == digest(secret)
        now = self._clock.now_ms()
        connection.execute(
            update(join_token)
            .where(by_secret, join_token.c.used_ms.is_(None), join_token.c.expires_ms > now)
            .values(used_ms=now, used_by=gateway_id, used_csr_sha256=csr_sha256)
        )
        row = connection.execute(select(join_token).where(by_secret)).one_or_none()
        if row is None:
            raise Denied("This join token is not known here. Was it copied whole, from this server?", reason=UNKNOWN)
        if row.used_ms is not None and row.used_csr_sha256 != csr_sha256:
            raise Denied("This join token was already used by another gateway. Make a new one.", reason=USED)
        if row.expires_ms <= now:
            raise Denied("This join token has expired. Make a new one.", reason=EXPIRED)
        return row


def digest(secret: str) -> str:
    """Secrets are 192 random bits: a plain hash is enough and lets an index find it."""
    return hashlib.sha256(secret.encode()).hexdigest()
