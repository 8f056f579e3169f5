"""The identity listener: server-side TLS only, since the client has no certificate yet or an expired one.

A few synchronous threads of their own: certificates are rare, slow and must not stand in the stream's way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import Protocol, TypeVar
from urllib.parse import unquote

import grpc
import structlog

from control_plane.errors import Denied, DeniedReason, Misconfigured
from protos.comboio.v1 import identity_pb2 as pb
from protos.comboio.v1 import identity_pb2_grpc as rpc

THREADS = 4
MESSAGE_LIMIT_BYTES = 64 * 1024
PEERS_REMEMBERED = 10_000
REFUSAL_COST = 6  # a wrong guess weighs as much as six certificates

STATUS = {
    DeniedReason.UNKNOWN: grpc.StatusCode.UNAUTHENTICATED,
    DeniedReason.USED: grpc.StatusCode.ALREADY_EXISTS,
    DeniedReason.EXPIRED: grpc.StatusCode.FAILED_PRECONDITION,
    DeniedReason.REVOKED: grpc.StatusCode.PERMISSION_DENIED,
    DeniedReason.MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
}

Request = TypeVar("Request")
log = structlog.get_logger()


class Enroller(Protocol):
    """Signs certificates; raises Denied. Called from several threads at once."""

    def enrol(self, request: pb.EnrolRequest) -> pb.Certificate: ...

    def renew(self, request: pb.RenewRequest) -> pb.Certificate: ...


class PeerLimit:
    """A token bucket per peer address: `per_minute` certificates, refusals weigh REFUSAL_COST.

    `monotonic_s` is handed in so that tests can turn it. The least recently seen peers are forgotten.
    """

    def __init__(self, *, per_minute: float, monotonic_s: Callable[[], float]) -> None:
        self._per_s = per_minute / 60
        self._burst = per_minute
        self._now = monotonic_s
        self._lock = Lock()
        self._peers: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, peer: str) -> bool:
        with self._lock:
            return self._left(peer) >= 1

    def spend(self, peer: str, cost: float) -> None:
        with self._lock:
            self._peers[peer] = (self._left(peer) - cost, self._now())
            self._peers.move_to_end(peer)
            if len(self._peers) > PEERS_REMEMBERED:
                self._peers.popitem(last=False)

    def _left(self, peer: str) -> float:
        left, since = self._peers.get(peer, (self._burst, self._now()))
        return min(self._burst, left + (self._now() - since) * self._per_s)


class IdentityService(rpc.IdentityServicer):
    """Translates Enroller to gRPC: every refusal is a status of its own and a sentence for the technician."""

    def __init__(self, *, enroller: Enroller, limit: PeerLimit) -> None:
        self._enroller = enroller
        self._limit = limit

    def Enrol(self, request: pb.EnrolRequest, context: grpc.ServicerContext) -> pb.Certificate:  # noqa: N802
        return self._answer(self._enroller.enrol, request, context)

    def Renew(self, request: pb.RenewRequest, context: grpc.ServicerContext) -> pb.Certificate:  # noqa: N802
        return self._answer(self._enroller.renew, request, context)

    def _answer(
        self,
        sign: Callable[[Request], pb.Certificate],
        request: Request,
        context: grpc.ServicerContext,
    ) -> pb.Certificate:
        peer = address_of(context.peer())
        if not self._limit.allows(peer):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many attempts from this address. Wait a minute.")
        try:
            signed = sign(request)
        except Denied as denied:
            self._limit.spend(peer, REFUSAL_COST)
            log.warning("identity.denied", peer=peer, reason=denied.reason.value, detail=str(denied))
            context.abort(STATUS[denied.reason], str(denied))
        except Exception:
            log.exception("identity.failed", peer=peer)
            context.abort(grpc.StatusCode.UNAVAILABLE, "The server could not store the certificate. Try again.")
        self._limit.spend(peer, 1)
        log.info("identity.signed", peer=peer, gateway=signed.gateway_id)
        return signed


@contextmanager
def serving(address: str, service: IdentityService, *, credentials: grpc.ServerCredentials) -> Iterator[int]:
    """Serve on `address` (HOST:PORT) until the block ends; yields the port. Raises Misconfigured when it is taken."""
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="identity")
    server = grpc.server(pool, options=[("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES)])
    rpc.add_IdentityServicer_to_server(service, server)
    try:
        try:
            port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise Misconfigured(f"identity: can't listen on {address}: {error}") from None
        server.start()
        yield port
    finally:
        server.stop(grace=1).wait()
        pool.shutdown()


def address_of(peer: str) -> str:
    """'ipv4:10.0.0.7:51312' → '10.0.0.7'."""
    return unquote(peer).partition(":")[2].rpartition(":")[0]
