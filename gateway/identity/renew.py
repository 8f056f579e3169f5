"""A new key and certificate in exchange for the old ones, expired or not.

The result is a *candidate*: the uplink connects with it and then commits it, or reverts to the old one. Until the
commit the old identity stays in force, also across restarts.
"""

from __future__ import annotations

import shutil
import ssl
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.identity.identity import Facts, Identity, store
from gateway.identity.keys import certificate_request, tls_key
from gateway.identity.listener import CALL_TIMEOUT_S, call
from protos.comboio.v1 import identity_pb2 as pb


@dataclass(frozen=True, slots=True)
class Candidate:
    """Exactly one of `commit` and `revert` is to be called; a crash before either is a revert."""

    identity: Identity

    def commit(self) -> Identity:
        """The uplink has reconnected with it: from now on this is who we are."""
        self.identity.in_force()
        return self.identity

    def revert(self) -> None:
        shutil.rmtree(self.identity.folder, ignore_errors=True)


def renew(identity: Identity) -> Candidate:
    """Ask for a new certificate under a new key. Blocking: call it in a thread.

    Raises Retryable (unreachable) or Misconfigured (refused: revoked, retired, another fleet).
    """
    attempt = identity.folder.parent / "renewing"
    attempt.mkdir(exist_ok=True, mode=0o700)
    csr = certificate_request(attempt / "csr.der", tls_key(attempt / "tls.key"))
    pem = identity.certificate_path.read_text().partition("-----END CERTIFICATE-----")
    old = ssl.PEM_cert_to_DER_cert(pem[0] + pem[1])
    signature = tls_key(identity.tls_key_path).sign(csr + old, ec.ECDSA(hashes.SHA256()))
    request = pb.RenewRequest(csr=csr, old_certificate=old, signature=signature)
    ca_pem = identity.ca_path.read_bytes()
    signed = call(identity.identity_address, ca_pem, lambda stub: stub.Renew(request, timeout=CALL_TIMEOUT_S))
    facts = Facts(
        gateway_id=signed.gateway_id,
        grpc=identity.grpc_address,
        identity=identity.identity_address,
        config_key=signed.config_key.hex(),
    )
    candidate = store(
        identity.folder.parent.parent,
        facts=facts,
        tls_key_pem=(attempt / "tls.key").read_bytes(),
        certificate_pem=signed.chain_pem,
        ca_pem=ca_pem,
    )
    shutil.rmtree(attempt, ignore_errors=True)
    return Candidate(candidate)
