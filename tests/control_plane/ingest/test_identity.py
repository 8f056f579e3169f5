from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from control_plane.errors import Misconfigured
from control_plane.fleet.authority import Authority
from control_plane.fleet.enrolment import Enrolment
from control_plane.ingest.door import Door
from control_plane.ingest.identity import REFUSAL_COST, IdentityService, PeerLimit, address_of, serving
from protos.comboio.v1 import identity_pb2 as pb
from protos.comboio.v1 import identity_pb2_grpc as rpc
from tests.box import Box, leaf
from tests.control_plane.conftest import TurnedClock


@pytest.fixture
def now_s() -> list[float]:
    return [0.0]


@pytest.fixture
def stub(
    enrolment: Enrolment, authority: Authority, clock: TurnedClock, now_s: list[float]
) -> Iterator[rpc.IdentityStub]:
    door = Door(authority=authority, names=tuple, clock=clock)
    limit = PeerLimit(per_minute=4 * REFUSAL_COST, monotonic_s=lambda: now_s[0])
    service = IdentityService(enroller=enrolment, limit=limit)
    with serving("127.0.0.1:0", service, credentials=door.identity()) as port:
        credentials = grpc.ssl_channel_credentials(authority.ca_pem)
        with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            yield rpc.IdentityStub(channel)


def status(call: object) -> grpc.StatusCode:
    assert callable(call)
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert isinstance(caught.value, grpc.Call)
    return caught.value.code()


def test_enrols_and_renews_over_tls(stub: rpc.IdentityStub, enrolment: Enrolment) -> None:
    box = Box()
    token = enrolment.join_tokens.create(gateway_name="a").token
    signed = stub.Enrol(box.enrol_request(token))
    renewed = stub.Renew(box.renew_request(signed))
    assert renewed.gateway_id == signed.gateway_id
    assert leaf(renewed) != leaf(signed)


def test_each_refusal_has_a_status_of_its_own(stub: rpc.IdentityStub, enrolment: Enrolment, clock: TurnedClock) -> None:
    used, old = (enrolment.join_tokens.create(gateway_name="a", ttl_s=t).token for t in (600, 60))
    enrolment.enrol(Box().enrol_request(used))
    clock.forward(seconds=61)
    seen = [
        status(lambda: stub.Enrol(Box().enrol_request("cj1.never-made.0"))),
        status(lambda: stub.Enrol(Box().enrol_request(used))),
        status(lambda: stub.Enrol(Box().enrol_request(old))),
        status(lambda: stub.Enrol(pb.EnrolRequest())),
    ]
    assert seen == [
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
    ]


def test_guessing_is_slowed_down(stub: rpc.IdentityStub, enrolment: Enrolment, now_s: list[float]) -> None:
    token = enrolment.join_tokens.create(gateway_name="a").token
    for _ in range(4):
        status(lambda: stub.Enrol(pb.EnrolRequest()))
    assert status(lambda: stub.Enrol(Box().enrol_request(token))) is grpc.StatusCode.RESOURCE_EXHAUSTED
    now_s[0] += 60
    assert stub.Enrol(Box().enrol_request(token)).gateway_id


def test_a_taken_port_names_the_setting(authority: Authority, enrolment: Enrolment, clock: TurnedClock) -> None:
    door = Door(authority=authority, names=tuple, clock=clock)
    service = IdentityService(enroller=enrolment, limit=PeerLimit(per_minute=9, monotonic_s=lambda: 0.0))
    with (
        pytest.raises(Misconfigured, match="can't listen on 192"),
        serving("192.0.2.1:1", service, credentials=door.identity()),
    ):
        pass


@pytest.mark.parametrize(("peer", "address"), [("ipv4:10.0.0.7:51312", "10.0.0.7"), ("ipv6:%5B::1%5D:51312", "[::1]")])
def test_a_peer_is_its_address_without_the_port(peer: str, address: str) -> None:
    assert address_of(peer) == address


def test_the_limit_forgets_the_least_recently_seen_peer() -> None:
    limit = PeerLimit(per_minute=1, monotonic_s=lambda: 0.0)
    limit.spend("first", 1)
    assert not limit.allows("first")
    for number in range(10_000):
        limit.spend(str(number), 1)
    assert limit.allows("first")
    assert not limit.allows("9999")
