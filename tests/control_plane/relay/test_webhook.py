"""What goes over the wire, by the letter of Standard Webhooks and CloudEvents, and how answers are read."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from email.utils import formatdate
from typing import Any

import httpx
import msgspec
import pytest

from control_plane.errors import Misconfigured
from control_plane.relay.connectors.webhook import WebhookConnector, WebhookDestination, classify
from tests.control_plane.relay.conftest import Relay, drain
from tests.control_plane.relay.far_side import SECRET, Answer, Sink


async def test_every_request_is_signed_as_standard_webhooks_says(to_sink: Relay, sink: Sink) -> None:
    to_sink.post(truck=2)
    await drain(to_sink.start())
    for request in sink.requests:
        signed = b".".join(
            (request.headers["webhook-id"].encode(), request.headers["webhook-timestamp"].encode(), request.body)
        )
        key = base64.b64decode(SECRET.removeprefix("whsec_"))
        wanted = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        assert request.headers["webhook-signature"] == wanted
        assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 60
        assert request.headers["idempotency-key"] == f'"{request.headers["webhook-id"]}"'


async def test_the_body_is_one_structured_cloud_event_as_it_rests_in_the_outbox(to_sink: Relay, sink: Sink) -> None:
    to_sink.post(truck=1)
    await drain(to_sink.start())
    (request,), (row,) = sink.requests, to_sink.rows()
    assert request.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert request.body == row.body
    assert hashlib.sha256(request.body).hexdigest() == row.body_sha256
    event = json.loads(request.body)
    assert event["id"] == request.headers["webhook-id"] == row.event_id
    assert (event["specversion"], event["subject"], event["data"]) == ("1.0", "truck", {"number": 1})


async def test_a_redirect_is_not_followed(to_sink: Relay, sink: Sink) -> None:
    sink.respond = lambda _: Answer(302, (("location", f"{sink.url}/elsewhere"),))
    to_sink.post(truck=1)
    await drain(to_sink.start())
    assert [request.path for request in sink.requests] == ["/hook"]
    assert to_sink.states() == ["parked"]


async def test_a_private_address_is_refused_unless_allowed_and_costs_no_attempt(to_sink: Relay, sink: Sink) -> None:
    allowed = to_sink.destination
    to_sink.destination = msgspec.structs.replace(allowed, allow_private=False)
    to_sink.post(truck=1)
    await drain(to_sink.start())
    (row,) = to_sink.rows()
    assert (sink.requests, row.state, row.attempt) == ([], "retry", 0)
    assert "private address (127.0.0.1); set allow_private = true" in row.last_error
    to_sink.destination = allowed
    to_sink.clock.forward(seconds=61)
    await drain(to_sink.start())
    assert to_sink.states() == ["delivered"]


@pytest.mark.parametrize(
    "url", ["http://[::1]:9/", "http://localhost:9/", "http://10.1.2.3/", "http://169.254.169.254/"]
)
async def test_every_kind_of_private_address_is_known(to_sink: Relay, url: str) -> None:
    to_sink.destination = msgspec.structs.replace(to_sink.destination, allow_private=False, url=url)
    to_sink.post(truck=1)
    await drain(to_sink.start())
    assert "is a private address" in to_sink.rows()[0].last_error


async def test_nobody_listening_is_surely_not_delivered(to_sink: Relay, sink: Sink) -> None:
    to_sink.destination = msgspec.structs.replace(to_sink.destination, url="http://127.0.0.1:1/")
    to_sink.post(truck=1)
    await drain(to_sink.start())
    (row,) = to_sink.rows()
    assert (row.state, row.last_class) == ("retry", "TRANSIENT")


@pytest.mark.parametrize(
    ("status", "headers", "wanted"),
    [
        (200, {}, ("OK", None)),
        (204, {}, ("OK", None)),
        (400, {}, ("PERMANENT", None)),
        (401, {}, ("AUTH", None)),
        (403, {}, ("AUTH", None)),
        (404, {}, ("PERMANENT", None)),
        (408, {}, ("AMBIGUOUS", None)),
        (409, {}, ("PERMANENT", None)),
        (410, {}, ("GONE", None)),
        (422, {}, ("PERMANENT", None)),
        (429, {}, ("THROTTLED", None)),
        (429, {"retry-after": "7"}, ("THROTTLED", 7.0)),
        (500, {}, ("AMBIGUOUS", None)),
        (502, {}, ("TRANSIENT", None)),
        (503, {}, ("TRANSIENT", None)),
        (503, {"retry-after": "120"}, ("THROTTLED", 120.0)),
        (503, {"retry-after": "soon"}, ("TRANSIENT", None)),
        (301, {}, ("PERMANENT", None)),
    ],
)
def test_answers_fall_into_classes(status: int, headers: dict[str, str], wanted: tuple[Any, ...]) -> None:
    found = classify(status, httpx.Headers(headers), b"")
    assert (found.class_, found.retry_after_s) == wanted


async def test_an_answer_without_an_end_is_cut(to_sink: Relay, sink: Sink) -> None:
    sink.respond = lambda _: Answer(422, body=b"x" * 1_000_000)
    to_sink.post(truck=1)
    await drain(to_sink.start())
    assert to_sink.rows()[0].last_error == "HTTP 422: (long answer)"


def test_retry_after_may_be_a_date() -> None:
    found = classify(503, httpx.Headers({"retry-after": formatdate(time.time() + 90, usegmt=True)}), b"")
    assert found.retry_after_s == pytest.approx(90, abs=3)


def test_a_secret_that_is_none_is_said_with_its_place(to_sink_destination: Any) -> None:
    with pytest.raises(Misconfigured, match=r"integrations/erp.toml: secret_file"):
        WebhookConnector(to_sink_destination)


@pytest.fixture
def to_sink_destination(tmp_path: Any) -> Any:
    return WebhookDestination(name="erp", url="http://127.0.0.1:1/", secret_file=str(tmp_path / "missing"))
