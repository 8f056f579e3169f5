from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import select

from control_plane.errors import Denied, DeniedReason, NotFound
from control_plane.fleet.authority import Authority
from control_plane.fleet.enrolment import Enrolment, serial_of
from control_plane.store.engine import Stores
from control_plane.store.tables import certificate, gateway
from protos.comboio.v1 import identity_pb2 as pb
from tests.box import Box, leaf
from tests.control_plane.conftest import TurnedClock


def denied(call: object) -> DeniedReason:
    assert callable(call)
    with pytest.raises(Denied) as caught:
        call()
    return caught.value.reason


def token_of(enrolment: Enrolment, **given: int) -> str:
    return enrolment.join_tokens.create(gateway_name="truck 17", asset="truck-17", **given).token


def test_a_token_makes_one_gateway(enrolment: Enrolment, stores: Stores, authority: Authority) -> None:
    token, box = token_of(enrolment), Box()
    signed = enrolment.enrol(box.enrol_request(token))
    assert re.fullmatch(r"gw-[a-z2-7]{10}", signed.gateway_id)
    assert leaf(signed).public_key() == box.key.public_key()
    assert authority.issued(leaf(signed))
    assert signed.config_key == authority.config_public_key
    with stores.business.read() as connection:
        row = connection.execute(select(gateway)).one()
        assert (row.id, row.name, row.asset, row.hardware) == (signed.gateway_id, "truck 17", "truck-17", "cm4")
        assert connection.execute(select(certificate.c.serial)).scalar_one() == serial_of(leaf(signed))


def test_the_token_pins_the_ca(enrolment: Enrolment, authority: Authority) -> None:
    assert token_of(enrolment).split(".")[0::2] == ["cj1", authority.fingerprint]


def test_an_unknown_token_is_denied(enrolment: Enrolment) -> None:
    request = Box().enrol_request("cj1.never-made.0")
    assert denied(lambda: enrolment.enrol(request)) is DeniedReason.UNKNOWN


def test_a_used_token_is_denied_to_another_box(enrolment: Enrolment) -> None:
    token = token_of(enrolment)
    enrolment.enrol(Box().enrol_request(token))
    request = Box().enrol_request(token)
    assert denied(lambda: enrolment.enrol(request)) is DeniedReason.USED


def test_an_expired_token_is_denied(enrolment: Enrolment, clock: TurnedClock) -> None:
    token = token_of(enrolment, ttl_s=60)
    clock.forward(seconds=60)
    request = Box().enrol_request(token)
    assert denied(lambda: enrolment.enrol(request)) is DeniedReason.EXPIRED


def test_the_same_request_again_is_a_retry(enrolment: Enrolment, stores: Stores) -> None:
    token, box = token_of(enrolment), Box()
    first, second = (enrolment.enrol(box.enrol_request(token)) for _ in range(2))
    assert first.gateway_id == second.gateway_id
    assert leaf(first).serial_number != leaf(second).serial_number
    with stores.business.read() as connection:
        assert len(connection.execute(select(gateway)).all()) == 1


def test_a_retry_with_another_signing_key_is_denied(enrolment: Enrolment) -> None:
    token, box, thief = token_of(enrolment), Box(), Box()
    enrolment.enrol(box.enrol_request(token))
    thief.csr = box.csr
    request = thief.enrol_request(token)
    assert denied(lambda: enrolment.enrol(request)) is DeniedReason.USED


def test_many_boxes_racing_for_one_token_make_one_gateway(enrolment: Enrolment, stores: Stores) -> None:
    token = token_of(enrolment)
    requests = [Box().enrol_request(token) for _ in range(6)]

    def attempt(request: pb.EnrolRequest) -> str:
        try:
            return enrolment.enrol(request).gateway_id
        except Denied as error:
            return error.reason

    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(attempt, requests))
    assert outcomes.count(DeniedReason.USED) == 5
    with stores.business.read() as connection:
        assert connection.execute(select(gateway.c.id)).scalar_one() in outcomes


@pytest.mark.parametrize("part", ["csr", "proof", "signing_key"])
def test_a_damaged_request_is_denied_and_leaves_the_token_open(enrolment: Enrolment, part: str) -> None:
    token, box = token_of(enrolment), Box()
    damaged = box.enrol_request(token)
    whole = getattr(damaged, part)
    setattr(damaged, part, whole[:-1] + bytes([whole[-1] ^ 1]))
    assert denied(lambda: enrolment.enrol(damaged)) is DeniedReason.MALFORMED
    enrolment.enrol(box.enrol_request(token))


def test_an_expired_certificate_renews(enrolment: Enrolment, clock: TurnedClock) -> None:
    box = Box()
    signed = enrolment.enrol(box.enrol_request(token_of(enrolment)))
    clock.forward(days=400)
    renewed = enrolment.renew(box.renew_request(signed))
    assert renewed.gateway_id == signed.gateway_id
    assert leaf(renewed).not_valid_after_utc.timestamp() * 1000 > clock.now_ms()


def test_a_revoked_gateway_gets_nothing_more(enrolment: Enrolment) -> None:
    token, box = token_of(enrolment), Box()
    signed = enrolment.enrol(box.enrol_request(token))
    enrolment.revoke(signed.gateway_id)
    assert denied(lambda: enrolment.renew(box.renew_request(signed))) is DeniedReason.REVOKED
    assert denied(lambda: enrolment.enrol(box.enrol_request(token))) is DeniedReason.REVOKED
    assert enrolment.revoked_serials() == {serial_of(leaf(signed))}


def test_revoked_serials_are_forgotten_once_expired(enrolment: Enrolment, clock: TurnedClock) -> None:
    signed = enrolment.enrol(Box().enrol_request(token_of(enrolment)))
    enrolment.revoke(signed.gateway_id)
    clock.forward(days=181)
    assert enrolment.revoked_serials() == frozenset()


def test_revoking_an_unknown_gateway_says_so(enrolment: Enrolment) -> None:
    with pytest.raises(NotFound, match="gw-nobody"):
        enrolment.revoke("gw-nobody")


def test_a_certificate_of_another_ca_does_not_renew(enrolment: Enrolment, tmp_path: Path, clock: TurnedClock) -> None:
    box = Box()
    own = enrolment.enrol(box.enrol_request(token_of(enrolment)))
    stranger = Authority.open(tmp_path / "stranger")
    forged = stranger.sign_gateway(box.key.public_key(), own.gateway_id, now_ms=clock.now_ms())
    request = box.renew_request(pb.Certificate(chain_pem=forged.public_bytes(Encoding.PEM)))
    assert denied(lambda: enrolment.renew(request)) is DeniedReason.UNKNOWN


def test_renewal_needs_the_old_key(enrolment: Enrolment) -> None:
    signed = enrolment.enrol(Box().enrol_request(token_of(enrolment)))
    request = Box().renew_request(signed)
    assert denied(lambda: enrolment.renew(request)) is DeniedReason.MALFORMED


def test_a_server_certificate_does_not_renew(enrolment: Enrolment, authority: Authority, clock: TurnedClock) -> None:
    server = authority.server_identity((), now_ms=clock.now_ms())
    request = Box().renew_request(pb.Certificate(chain_pem=server.chain_pem))
    assert denied(lambda: enrolment.renew(request)) is DeniedReason.UNKNOWN
