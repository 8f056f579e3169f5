"""Which identity the uplink uses now: the one in force, or a renewed candidate that must first prove itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from gateway.clock import Clock
from gateway.errors import Misconfigured, Retryable
from gateway.identity.identity import DamagedIdentityError, Identity
from gateway.identity.renew import Candidate, renew

TRY_AGAIN_MS = 60_000
DOUBT_AFTER = 4
DOUBT_AGAIN_MS = 3_600_000

log = structlog.get_logger("gateway.identity")


class Keeper:
    """`before_connecting` → connect → `connected` or `failed`.

    A clock that is behind can't tell that a certificate has expired, and a refused handshake says nothing: after some
    failures in a row renewal is simply tried, once an hour.
    """

    def __init__(self, data_dir: Path, *, clock: Clock) -> None:
        """Raises Misconfigured when the box is not enrolled; a damaged identity is left to `before_connecting`."""
        self._clock = clock
        self._data_dir = data_dir
        self._current = self._load()
        self._candidate: Candidate | None = None
        self._tried_mono_ms: int | None = None
        self._failures = 0

    def _load(self) -> Identity | None:
        try:
            return Identity.load(self._data_dir)
        except DamagedIdentityError as error:
            log.error("identity.damaged", why=str(error), until="then readings are kept on this box")
            return None

    @property
    def gateway_id(self) -> str:
        """Empty while the identity can't be read."""
        return self._current.gateway_id if self._current else ""

    def days_left(self) -> float | None:
        """Of the certificate in force, by the box's own clock; None while it can't be read."""
        if self._current is None:
            return None
        return (self._current.not_after.timestamp() - self._clock.wall_ms() / 1000) / 86_400

    @property
    def config_key(self) -> bytes:
        """Verifies configuration; empty while the identity can't be read."""
        return self._current.config_key if self._current else b""

    async def before_connecting(self) -> Identity:
        """The identity to connect with; asks for a new certificate when two thirds of this one's life are over.

        Raises Misconfigured while what is on the disk can't be read: each attempt looks again.
        """
        current = self._current = self._current or Identity.load(self._data_dir)
        if self._candidate is None and self._due(current):
            self._tried_mono_ms = self._clock.mono_ms()
            try:
                self._candidate = await asyncio.to_thread(renew, current)
            except (Retryable, Misconfigured) as error:
                log.warning("certificate.not_renewed", why=str(error), valid_until=str(current.not_after))
        return self._candidate.identity if self._candidate else current

    def connected(self) -> None:
        """The control plane accepted what `before_connecting` gave."""
        self._failures = 0
        if self._candidate is not None:
            self._current = self._candidate.commit()
            self._candidate = None
            log.info("certificate.renewed", valid_until=str(self._current.not_after))

    def failed(self) -> None:
        """The connection did not come about: go back to what is in force."""
        self._failures += 1
        if self._candidate is not None:
            self._candidate.revert()
            self._candidate = None

    def _due(self, current: Identity) -> bool:
        tried = self._tried_mono_ms
        since_ms = None if tried is None else self._clock.mono_ms() - tried
        if current.renewal_due(self._clock.wall_ms()):
            return since_ms is None or since_ms >= TRY_AGAIN_MS
        return self._failures >= DOUBT_AFTER and (since_ms is None or since_ms >= DOUBT_AGAIN_MS)
