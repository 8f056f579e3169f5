from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography import x509

from control_plane.fleet.accounts import Role
from gateway.errors import Misconfigured, Retryable
from gateway.identity import enrol as enrolling
from gateway.identity import identity
from gateway.identity.enrol import enrol, parse_token
from gateway.identity.identity import Identity
from gateway.identity.renew import renew
from tests.control import Up, running


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("control")) as up:
        yield up


@pytest.fixture
def token(control: Up) -> str:
    return control.join_token(name="truck 17")


@contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[str]:
    """An HTTP server that gives every request the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_box_joins_with_a_token(control: Up, token: str, tmp_path: Path) -> None:
    joined = enrol(control.http, token, tmp_path, hardware="cm4", serial="17")
    assert joined == Identity.load(tmp_path)
    assert joined.grpc_address == control.announced["grpc"]
    assert joined.tls_key_path.stat().st_mode & 0o777 == 0o600
    assert joined.signing_key_path.stat().st_mode & 0o777 == 0o600
    assert (joined.not_after - joined.not_before).days == 180
    assert not (tmp_path / "identity" / "enrolling").exists()
    assert isinstance(joined.credentials(), grpc.ChannelCredentials)
    admin = control.api_token(Role.VIEWER)
    item = control.get(f"/api/v1/gateways/{joined.gateway_id}", admin).json()
    assert (item["name"], item["hardware"], item["serial"]) == ("truck 17", "cm4", "17")


def test_a_box_joins_only_once(control: Up, token: str, tmp_path: Path) -> None:
    joined = enrol(control.http, token, tmp_path)
    with pytest.raises(Misconfigured, match=f"already enrolled as {joined.gateway_id}"):
        enrol(control.http, token, tmp_path)


def test_an_unknown_token_is_refused_in_words(control: Up, token: str, tmp_path: Path) -> None:
    _, _, ca_sha256 = parse_token_parts(token)
    with pytest.raises(Misconfigured, match="join token is not known here"):
        enrol(control.http, f"cj1.never-made.{ca_sha256}", tmp_path)


def test_a_used_token_is_refused_in_words(control: Up, token: str, tmp_path: Path) -> None:
    enrol(control.http, token, tmp_path / "first")
    with pytest.raises(Misconfigured, match="already used by another gateway"):
        enrol(control.http, token, tmp_path / "second")


def test_an_expired_token_is_refused_in_words(control: Up, tmp_path: Path) -> None:
    expired = control.join_token(name="a", ttl_s=0)
    with pytest.raises(Misconfigured, match="has expired"):
        enrol(control.http, expired, tmp_path)


def test_another_servers_ca_is_refused_before_anything_is_sent(control: Up, token: str, tmp_path: Path) -> None:
    version, secret, _ = parse_token_parts(token)
    with pytest.raises(Misconfigured, match="is not the control plane this token is for"):
        enrol(control.http, f"{version}.{secret}.{'0' * 64}", tmp_path)
    assert enrol(control.http, token, tmp_path).gateway_id  # the token was not spent


def test_an_identity_listener_under_another_ca_is_not_trusted(control: Up, token: str, tmp_path: Path) -> None:
    with running(tmp_path / "stranger") as stranger:
        facts = control.get("/api/v1/enrolment").json() | {"identity": stranger.announced["identity"]}
        with answering(json.dumps(facts).encode()) as url, pytest.raises(Retryable, match="can't be reached"):
            enrol(url, token, tmp_path / "box")


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [(b"<html>", 200, "not the enrolment document"), (b"{}", 200, "ca_pem"), (b"", 404, "status 404")],
)
def test_an_answer_that_is_not_ours_is_said(token: str, tmp_path: Path, body: bytes, status: int, text: str) -> None:
    with answering(body, status) as url, pytest.raises(Misconfigured, match=text):
        enrol(url, token, tmp_path)


def test_nobody_there_is_worth_another_try(token: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Retryable, match="can't be reached"):
        enrol(f"http://127.0.0.1:{port}", token, tmp_path)


@pytest.mark.parametrize("text", ["", "cj1.secret", "cj1.secret.xyz", "cj2.secret." + "0" * 64])
def test_a_token_not_copied_whole_is_recognised(text: str) -> None:
    with pytest.raises(Misconfigured, match="copied whole"):
        parse_token(text)


def test_an_enrolment_cut_after_the_server_signed_is_repeated(
    control: Up, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> Identity:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(enrolling, "store", killed)
        with pytest.raises(Killed):
            enrol(control.http, token, tmp_path)
    with pytest.raises(Misconfigured, match="not enrolled"):
        Identity.load(tmp_path)
    joined = enrol(control.http, token, tmp_path)
    viewer = control.api_token(Role.ADMIN)
    used = {item["used_by"] for item in control.get("/api/v1/join-tokens?limit=1000", viewer).json()["items"]}
    assert joined.gateway_id in used


def test_an_enrolment_cut_before_the_last_step_is_repeated(
    control: Up, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Identity, "in_force", lambda _self: (_ for _ in ()).throw(OSError("power")))
        with pytest.raises(OSError, match="power"):
            enrol(control.http, token, tmp_path)
    assert enrol(control.http, token, tmp_path) == Identity.load(tmp_path)


def test_a_renewed_identity_counts_from_its_commit(control: Up, token: str, tmp_path: Path) -> None:
    old = enrol(control.http, token, tmp_path)
    old_key = old.tls_key_path.read_bytes()
    candidate = renew(old)
    assert Identity.load(tmp_path) == old
    assert candidate.identity.gateway_id == old.gateway_id
    assert candidate.identity.tls_key_path.read_bytes() != old_key
    assert candidate.commit() == Identity.load(tmp_path)
    assert not old.folder.exists()


def test_an_identity_renewed_while_it_is_read_is_read_again(
    control: Up, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = enrol(control.http, token, tmp_path)
    candidate, check = renew(joined), identity._check_keys

    def check_late(folder: Path, certificate: x509.Certificate) -> None:
        if joined.folder.exists():
            candidate.commit()
        check(folder, certificate)

    monkeypatch.setattr(identity, "_check_keys", check_late)
    assert Identity.load(tmp_path) == candidate.identity


def test_a_reverted_renewal_leaves_the_old_identity(control: Up, token: str, tmp_path: Path) -> None:
    old = enrol(control.http, token, tmp_path)
    candidate = renew(old)
    candidate.revert()
    assert Identity.load(tmp_path) == old
    assert not candidate.identity.folder.exists()


def test_a_retired_gateway_is_told_so_when_it_renews(control: Up, token: str, tmp_path: Path) -> None:
    joined = enrol(control.http, token, tmp_path)
    admin = control.api_token(Role.ADMIN)
    path = f"/api/v1/gateways/{joined.gateway_id}"
    known = control.get(path, admin).json()["etag"]
    gone = httpx.delete(
        control.http + path, headers={"Authorization": f"Bearer {admin}", "If-Match": known}, trust_env=False
    )
    assert gone.status_code == 204
    with pytest.raises(Misconfigured, match="revoked"):
        renew(joined)


def test_renewal_is_due_after_two_thirds_of_the_life(control: Up, token: str, tmp_path: Path) -> None:
    joined = enrol(control.http, token, tmp_path)
    start_ms = int(joined.not_before.timestamp() * 1000)
    assert not joined.renewal_due(start_ms + 119 * 86_400_000)
    assert joined.renewal_due(start_ms + 121 * 86_400_000)


def test_a_damaged_identity_says_what_to_do(control: Up, token: str, tmp_path: Path) -> None:
    joined = enrol(control.http, token, tmp_path)
    joined.certificate_path.write_text("")
    with pytest.raises(Misconfigured, match="enrol this box again"):
        Identity.load(tmp_path)


def test_a_damaged_identity_is_set_aside_by_name_when_the_box_is_enrolled_again(
    control: Up, token: str, tmp_path: Path
) -> None:
    first = enrol(control.http, token, tmp_path)
    first.tls_key_path.write_text("")
    second = enrol(control.http, control.join_token(name="truck 18"), tmp_path)
    assert Identity.load(tmp_path) == second
    assert second.gateway_id != first.gateway_id
    (aside,) = (tmp_path / "identity").glob("1.damaged-*")
    assert (aside / "certificate.pem").exists()


def parse_token_parts(token: str) -> tuple[str, str, str]:
    version, secret, ca_sha256 = token.split(".")
    return version, secret, ca_sha256
