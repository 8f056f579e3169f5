"""Certificates for a simulated fleet: by join tokens as real boxes enrol, or from the authority of this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from control_plane.clock import SystemClock
from control_plane.errors import Misconfigured
from control_plane.fleet.authority import Authority
from control_plane.fleet.enrolment import Enrolment
from control_plane.store.engine import Stores
from protos.comboio.v1 import identity_pb2 as pb
from protos.comboio.v1 import identity_pb2_grpc as rpc

ANSWER_WITHIN_S = 20.0


class Identity(NamedTuple):
    """`certificate` is a file of key and chain."""

    gateway: str
    certificate: str


def local(count: int, *, data_dir: Path, database: str, folder: Path, name: str) -> tuple[list[Identity], str]:
    """Registered and enrolled in the stores of a control plane on this machine; and the file of its CA."""
    if not (data_dir / "pki" / "ca.pem").exists():
        raise Misconfigured(f"--data-dir {data_dir}: no control plane has been started on it")
    authority = Authority.open(data_dir)
    with Stores(database or f"sqlite:///{data_dir.absolute()}") as stores:
        enrolment = Enrolment(stores=stores, authority=authority, clock=SystemClock())
        tokens = [enrolment.join_tokens.create(gateway_name=f"{name} {number + 1}").token for number in range(count)]
        return _all(tokens, enrolment.enrol, folder), str(data_dir / "pki" / "ca.pem")


def enrolled(tokens: Sequence[str], *, identity: str, ca: Path, folder: Path) -> list[Identity]:
    """Over the identity listener, which takes some a minute from one address (`[identity_limits]`)."""
    pem = ca.read_bytes()
    fingerprint = hashlib.sha256(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)).hexdigest()
    if any(token.split(".")[-1] != fingerprint for token in tokens):
        raise Misconfigured(f"--ca {ca}: not the authority that the join tokens name")
    with grpc.secure_channel(identity, grpc.ssl_channel_credentials(pem)) as channel:
        stub = rpc.IdentityStub(channel)

        def ask(request: pb.EnrolRequest) -> pb.Certificate:
            try:
                signed: pb.Certificate = stub.Enrol(request, timeout=ANSWER_WITHIN_S)
            except grpc.RpcError as error:
                said = error.details() if isinstance(error, grpc.Call) else error
                raise Misconfigured(f"--identity {identity}: {said}") from None
            return signed

        return _all(tokens, ask, folder)


def _all(tokens: Sequence[str], ask: Callable[[pb.EnrolRequest], pb.Certificate], folder: Path) -> list[Identity]:
    return [_one(token, ask, folder) for token in tokens]


def _one(token: str, ask: Callable[[pb.EnrolRequest], pb.Certificate], folder: Path) -> Identity:
    key, signer = ec.generate_private_key(ec.SECP256R1()), Ed25519PrivateKey.generate()
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    csr = request.public_bytes(Encoding.DER)
    signed = ask(
        pb.EnrolRequest(
            token=token.split(".")[1],
            csr=csr,
            hardware="simulated",
            signing_key=signer.public_key().public_bytes_raw(),
            proof=signer.sign(hashlib.sha256(csr).digest()),
        )
    )
    path = folder / f"{signed.gateway_id}.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + signed.chain_pem)
    return Identity(signed.gateway_id, str(path))
