"""Joins a fleet with a one-use token: `cj1.<secret>.<SHA-256 of the fleet's CA>`.

The box trusts nobody yet, so the first question is asked without checking who answers; what makes the answer
trustworthy is that the CA in it hashes to what the token says. Everything after that is TLS under that CA alone.
An attempt that was cut anywhere is repeated with the same token: key and request stay until the identity is stored.
"""

from __future__ import annotations

import hashlib
import hmac
import shutil
import ssl
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

import msgspec

from gateway.errors import Misconfigured, Retryable
from gateway.identity.files import sync_folder
from gateway.identity.identity import CURRENT, DamagedIdentityError, Facts, Identity, root, set_aside, store
from gateway.identity.keys import certificate_request, signing_key, tls_key
from gateway.identity.listener import CALL_TIMEOUT_S, call
from protos.comboio.v1 import identity_pb2 as pb

DOCUMENT_LIMIT_BYTES = 64 * 1024


class Token(NamedTuple):
    secret: str
    ca_sha256: str


class Enrolment(msgspec.Struct, frozen=True):
    """`GET /api/v1/enrolment`."""

    ca_pem: str
    ca_sha256: str
    grpc: str
    identity: str


def enrol(server_url: str, token: str, data_dir: Path, *, hardware: str = "", serial: str = "") -> Identity:
    """Join the fleet at `server_url` (the HTTP base) and store the identity durably. Blocking.

    Raises Misconfigured (wrong token, CA or URL: a person must act) or Retryable (nobody answers: try again).
    """
    parsed, folder = parse_token(token), root(data_dir)
    if (folder / CURRENT).exists():
        _check_damaged(data_dir, folder)
    told = _ask(server_url)
    ca_pem = told.ca_pem.encode()
    _check_ca(ca_pem, parsed, server_url)
    request, key_pem = _request(folder, secret=parsed.secret, hardware=hardware, serial=serial)
    signed = call(told.identity, ca_pem, lambda stub: stub.Enrol(request, timeout=CALL_TIMEOUT_S))
    facts = Facts(
        gateway_id=signed.gateway_id, grpc=told.grpc, identity=told.identity, config_key=signed.config_key.hex()
    )
    stored = store(data_dir, facts=facts, tls_key_pem=key_pem, certificate_pem=signed.chain_pem, ca_pem=ca_pem)
    stored.in_force()
    shutil.rmtree(folder / "enrolling", ignore_errors=True)
    return stored


def _check_damaged(data_dir: Path, folder: Path) -> None:
    """Only an identity that can't be read may be replaced; it is kept by name."""
    try:
        known = Identity.load(data_dir)
    except DamagedIdentityError:
        set_aside(data_dir)
    else:
        raise Misconfigured(f"{data_dir}: already enrolled as {known.gateway_id}; remove {folder} to enrol anew")


def parse_token(token: str) -> Token:
    """Raises Misconfigured when it was not copied whole."""
    version, _, rest = token.strip().partition(".")
    secret, _, ca_sha256 = rest.partition(".")
    if version != "cj1" or not secret or len(ca_sha256) != 64 or not set(ca_sha256) <= set("0123456789abcdef"):
        raise Misconfigured("The token must read cj1.<secret>.<64 hexadecimal digits>; was it copied whole?")
    return Token(secret, ca_sha256)


def _request(folder: Path, *, secret: str, hardware: str, serial: str) -> tuple[pb.EnrolRequest, bytes]:
    attempt = folder / "enrolling"
    attempt.mkdir(parents=True, exist_ok=True, mode=0o700)
    sync_folder(folder.parent)
    csr = certificate_request(attempt / "csr.der", tls_key(attempt / "tls.key"))
    signer = signing_key(folder / "signing.key")
    request = pb.EnrolRequest(
        token=secret,
        csr=csr,
        hardware=hardware,
        serial=serial,
        signing_key=signer.public_key().public_bytes_raw(),
        proof=signer.sign(hashlib.sha256(csr).digest()),
    )
    return request, (attempt / "tls.key").read_bytes()


def _ask(server_url: str) -> Enrolment:
    url = server_url.rstrip("/") + "/api/v1/enrolment"
    if not url.startswith(("http://", "https://")):
        raise Misconfigured(f"--server {server_url}: must begin with http:// or https://")
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE  # the token's CA hash is the check
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=unverified))
    try:
        with opener.open(url, timeout=CALL_TIMEOUT_S) as answer:
            body = answer.read(DOCUMENT_LIMIT_BYTES)
    except HTTPError as error:
        error.close()
        raise _strange(url, f"it answered status {error.code}") from None
    except (OSError, HTTPException) as error:
        raise Retryable(f"{url} can't be reached: {getattr(error, 'reason', error)}") from None
    try:
        return msgspec.json.decode(body, type=Enrolment)
    except msgspec.DecodeError as error:
        raise _strange(url, f"its answer is not the enrolment document: {error}") from None


def _check_ca(ca_pem: bytes, token: Token, server_url: str) -> None:
    try:
        found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(ca_pem.decode())).hexdigest()
    except ValueError as error:
        raise _strange(server_url, f"its CA can't be read: {error}") from None
    if not hmac.compare_digest(found, token.ca_sha256):
        raise Misconfigured(
            f"{server_url} is not the control plane this token is for: its CA is {found[:16]}…, the token says "
            f"{token.ca_sha256[:16]}…. Check the URL; someone may be in between."
        )


def _strange(url: str, what: str) -> Misconfigured:
    return Misconfigured(f"{url} does not look like a Comboio control plane: {what}")
