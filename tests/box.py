"""A gateway's side of enrolment, bare: keys and correctly signed requests."""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from protos.comboio.v1 import identity_pb2 as pb


class Box:
    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.signer = Ed25519PrivateKey.generate()
        self.csr = csr_for(self.key)

    def enrol_request(self, token: str) -> pb.EnrolRequest:
        return pb.EnrolRequest(
            token=token.split(".")[1],
            csr=self.csr,
            hardware="cm4",
            serial="0001",
            signing_key=self.signer.public_key().public_bytes_raw(),
            proof=self.signer.sign(hashlib.sha256(self.csr).digest()),
        )

    def renew_request(self, signed: pb.Certificate) -> pb.RenewRequest:
        old = leaf(signed).public_bytes(Encoding.DER)
        csr = csr_for(ec.generate_private_key(ec.SECP256R1()))
        return pb.RenewRequest(
            csr=csr, old_certificate=old, signature=self.key.sign(csr + old, ec.ECDSA(hashes.SHA256()))
        )


def csr_for(key: ec.EllipticCurvePrivateKey) -> bytes:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.DER)


def leaf(signed: pb.Certificate) -> x509.Certificate:
    return x509.load_pem_x509_certificates(signed.chain_pem)[0]
