"""Turns join tokens into gateway certificates, renews and revokes them.

Invariants
* a token yields one gateway: the claim of the token, the gateway's row and the certificate's row are one transaction;
* an interrupted enrolment is repeatable: the same CSR under the same token gets the same gateway id, signed anew;
* renewal needs the old key, not the old dates: a box that slept for a year comes back, a revoked one does not;
* a revoked gateway gets nothing more, and `revoked_serials()` names what must no longer be let in.
"""

from __future__ import annotations

import base64
import hashlib
import secrets

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Connection, insert, select, update

from control_plane.clock import Clock
from control_plane.errors import Denied, DeniedReason, NotFound
from control_plane.fleet import proofs
from control_plane.fleet.authority import Authority, gateway_named_in
from control_plane.fleet.join_tokens import JoinTokens
from control_plane.store.engine import Stores
from control_plane.store.tables import certificate, gateway, join_token
from protos.comboio.v1 import identity_pb2 as pb

TEXT_LIMIT = 200


class Enrolment:
    """Synchronous, thread-safe; used by the identity listener, the REST API and the command line."""

    def __init__(self, *, stores: Stores, authority: Authority, clock: Clock) -> None:
        self._store = stores.business
        self._authority = authority
        self._clock = clock
        self.join_tokens = JoinTokens(store=stores.business, clock=clock, ca_sha256=authority.fingerprint)

    def enrol(self, request: pb.EnrolRequest) -> pb.Certificate:
        """Raises Denied; nothing has changed then."""
        key = proofs.requested_key(request.csr)
        proofs.check_signing_key(request.signing_key, request.csr, request.proof)
        csr_sha256 = hashlib.sha256(request.csr).hexdigest()
        fresh_id = new_gateway_id()
        with self._store.write() as connection:
            token = self.join_tokens.use(connection, secret=request.token, csr_sha256=csr_sha256, gateway_id=fresh_id)
            if token.used_by == fresh_id:
                self._register(connection, fresh_id, request, name=token.gateway_name, asset=token.asset)
            elif token.gateway is not None and self._awaited(connection, token.used_by):
                self._arrive(connection, token.used_by, request)
            else:
                self._check_retry(connection, token.used_by, request.signing_key)
            return self._issue(connection, token.used_by, key)

    def renew(self, request: pb.RenewRequest) -> pb.Certificate:
        """A new certificate for the holder of an old one, expired or not. Raises Denied."""
        key = proofs.requested_key(request.csr)
        old = proofs.presented_certificate(request.old_certificate)
        gateway_id = gateway_named_in(old)
        if not self._authority.issued(old) or gateway_id is None:
            raise Denied("The old certificate was not issued by this fleet. Enrol again.", reason=DeniedReason.UNKNOWN)
        proofs.check_renewal(old, request.csr + request.old_certificate, request.signature)
        with self._store.write() as connection:
            self._check_serial(connection, serial_of(old))
            self._check_gateway(connection, gateway_id)
            return self._issue(connection, gateway_id, key)

    def revoke(self, gateway_id: str) -> None:
        """Retire the gateway and every certificate it holds; raises NotFound. Twice is once."""
        now = self._clock.now_ms()
        with self._store.write() as connection:
            known = connection.execute(select(gateway.c.id).where(gateway.c.id == gateway_id)).one_or_none()
            if known is None:
                raise NotFound(f"There is no gateway {gateway_id}.")
            connection.execute(
                update(gateway).where(gateway.c.id == gateway_id, gateway.c.retired_ms.is_(None)).values(retired_ms=now)
            )
            connection.execute(
                update(join_token)
                .where(
                    join_token.c.gateway == gateway_id, join_token.c.used_ms.is_(None), join_token.c.expires_ms > now
                )
                .values(expires_ms=now)
            )
            connection.execute(
                update(certificate)
                .where(certificate.c.gateway == gateway_id, certificate.c.revoked_ms.is_(None))
                .values(revoked_ms=now)
            )

    def revoked_serials(self) -> frozenset[str]:
        """Serials (lower-case hexadecimal) revoked and not yet expired: for ingest to poll."""
        query = select(certificate.c.serial).where(
            certificate.c.revoked_ms.is_not(None), certificate.c.not_after_ms > self._clock.now_ms()
        )
        with self._store.read() as connection:
            return frozenset(connection.execute(query).scalars())

    def _register(
        self, connection: Connection, gateway_id: str, request: pb.EnrolRequest, *, name: str, asset: str | None
    ) -> None:
        now_ms = self._clock.now_ms()
        row = {
            "id": gateway_id,
            "name": name,
            "asset": asset,
            **_said(request),
            "created_ms": now_ms,
            "enrolled_ms": now_ms,
        }
        connection.execute(insert(gateway).values(row))

    def _awaited(self, connection: Connection, gateway_id: str) -> bool:
        query = select(gateway.c.id).where(gateway.c.id == gateway_id, gateway.c.enrolled_ms.is_(None))
        return connection.execute(query).one_or_none() is not None

    def _arrive(self, connection: Connection, gateway_id: str, request: pb.EnrolRequest) -> None:
        """The box that was registered ahead is there."""
        self._check_gateway(connection, gateway_id)
        values = {**_said(request), "enrolled_ms": self._clock.now_ms()}
        connection.execute(update(gateway).where(gateway.c.id == gateway_id).values(values))

    def _check_retry(self, connection: Connection, gateway_id: str, signing_key: bytes) -> None:
        self._check_gateway(connection, gateway_id)
        known = connection.execute(select(gateway.c.signing_key).where(gateway.c.id == gateway_id)).scalar_one()
        if bytes(known) != signing_key:
            raise Denied("This join token was already used with another signing key.", reason=DeniedReason.USED)

    def _check_gateway(self, connection: Connection, gateway_id: str) -> None:
        row = connection.execute(select(gateway.c.retired_ms).where(gateway.c.id == gateway_id)).one_or_none()
        if row is None:
            raise Denied(f"Gateway {gateway_id} is not in the registry. Enrol again.", reason=DeniedReason.UNKNOWN)
        if row.retired_ms is not None:
            raise Denied(f"Gateway {gateway_id} was retired. Enrol again.", reason=DeniedReason.REVOKED)

    def _check_serial(self, connection: Connection, serial: str) -> None:
        # A serial missing from a restored database is not held against the box; its gateway row still must be there.
        query = select(certificate.c.revoked_ms).where(certificate.c.serial == serial)
        if connection.execute(query).scalar_one_or_none() is not None:
            raise Denied("The old certificate was revoked. Enrol again.", reason=DeniedReason.REVOKED)

    def _issue(self, connection: Connection, gateway_id: str, key: ec.EllipticCurvePublicKey) -> pb.Certificate:
        now_ms = self._clock.now_ms()
        issued = self._authority.sign_gateway(key, gateway_id, now_ms=now_ms)
        row = {
            "serial": serial_of(issued),
            "gateway": gateway_id,
            "not_after_ms": int(issued.not_valid_after_utc.timestamp()) * 1000,
            "issued_ms": now_ms,
        }
        connection.execute(insert(certificate).values(row))
        return pb.Certificate(
            chain_pem=issued.public_bytes(Encoding.PEM) + self._authority.ca_pem,
            config_key=self._authority.config_public_key,
            gateway_id=gateway_id,
        )


def _said(request: pb.EnrolRequest) -> dict[str, object]:
    return {
        "hardware": request.hardware[:TEXT_LIMIT],
        "serial": request.serial[:TEXT_LIMIT],
        "signing_key": request.signing_key,
    }


def serial_of(issued: x509.Certificate) -> str:
    return f"{issued.serial_number:x}"


def new_gateway_id() -> str:
    return "gw-" + base64.b32encode(secrets.token_bytes(10)).decode()[:10].lower()
