"""Calls to the control plane's identity listener, its refusals translated."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from gateway.errors import Misconfigured, Retryable
from protos.comboio.v1 import identity_pb2 as pb
from protos.comboio.v1 import identity_pb2_grpc as rpc

CALL_TIMEOUT_S = 20.0
PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}


def call(address: str, ca_pem: bytes, ask: Callable[[rpc.IdentityStub], pb.Certificate]) -> pb.Certificate:
    """`ask(stub)` over TLS with `ca_pem` as the only root. Blocking.

    Raises Retryable (unreachable, busy) or Misconfigured (refused, with the server's own sentence).
    """
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(ca_pem), options) as channel:
        try:
            return ask(rpc.IdentityStub(channel))
        except grpc.RpcError as error:
            raise _translated(error, address) from None


def _translated(error: grpc.RpcError, address: str) -> Exception:
    code, details = error.code(), error.details() or "no reason given"
    if code in PASSING:
        return Retryable(f"The identity listener {address} can't be reached: {details}")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Retryable(details, after_s=60.0)
    return Misconfigured(f"{details} ({code.name.lower()})")
