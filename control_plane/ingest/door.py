"""The listeners' certificate: read again when it changes on disk, renewed before it ends, never by a restart.

Streams that are open keep the certificate they began with; the next handshake gets the newest. Of the processes that
share a data folder one renews, under the authority's lock; the others see the file change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import grpc
import structlog

from control_plane.clock import Clock
from control_plane.fleet.authority import Authority, ServerIdentity

log = structlog.get_logger("control_plane.ingest")


class Door:
    """`names` are what this server is called now: a certificate that lacks one is made again, too."""

    def __init__(self, *, authority: Authority, names: Callable[[], tuple[str, ...]], clock: Clock) -> None:
        self._authority = authority
        self._names = names
        self._clock = clock
        self._lock = threading.Lock()
        self._current = self._load()

    def look(self) -> bool:
        """Take what is on disk, renewed if it is due; True if it is another. Raises OSError and ValueError."""
        fresh = self._load()
        with self._lock:
            changed = fresh != self._current
            self._current = fresh
        if changed:
            log.info("certificate.reloaded")
        return changed

    def credentials(self) -> grpc.ServerCredentials:
        """For gateways: who has no certificate of this fleet does not come in."""
        return self._dynamic(client_auth=True)

    def identity(self) -> grpc.ServerCredentials:
        """For those who have none yet."""
        return self._dynamic(client_auth=False)

    def _load(self) -> ServerIdentity:
        return self._authority.server_identity(self._names(), now_ms=self._clock.now_ms())

    def _dynamic(self, *, client_auth: bool) -> grpc.ServerCredentials:
        given = self._current

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            """Asked at each handshake, in gRPC's threads; None: as before."""
            nonlocal given
            with self._lock:
                if self._current == given:
                    return None
                given = self._current
            return self._configuration(given, client_auth=client_auth)

        return grpc.dynamic_ssl_server_credentials(
            self._configuration(given, client_auth=client_auth),
            fetch,  # type: ignore[arg-type]  # the stubs don't know that None says "as before"
            require_client_authentication=client_auth,
        )

    def _configuration(self, one: ServerIdentity, *, client_auth: bool) -> grpc.ServerCertificateConfiguration:
        root = self._authority.ca_pem if client_auth else None
        return grpc.ssl_server_certificate_configuration([(one.key_pem, one.chain_pem)], root_certificates=root)
