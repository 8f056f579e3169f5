"""The ERP stand-in as people start it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from standardwebhooks import Webhook

from tests.control import ROOT


@pytest.fixture
def erp(tmp_path: Path) -> Iterator[tuple[httpx.Client, Webhook]]:
    secret_file = tmp_path / "erp.secret"
    arguments = [sys.executable, "-m", "control_plane", "simulate", "erp", "--secret-file", str(secret_file), "--json"]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        url = json.loads(process.stdout.readline())["url"]
        assert secret_file.stat().st_mode & 0o777 == 0o600
        with httpx.Client(base_url=url, trust_env=False, timeout=5) as client:
            yield client, Webhook(secret_file.read_text().strip())
    finally:
        process.terminate()
        assert process.wait(10) == 0
        process.stdout.close()


def send(client: httpx.Client, signer: Webhook, id_: str, body: str) -> httpx.Response:
    now = datetime.now(UTC)
    headers = {
        "webhook-id": id_,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signer.sign(id_, now, body),
    }
    return client.post("/webhook", content=body, headers=headers)


def test_an_event_takes_effect_once_per_id(erp: tuple[httpx.Client, Webhook]) -> None:
    client, signer = erp
    body = json.dumps({"id": "evt_1", "data": 1})
    first, again = (send(client, signer, "evt_1", body) for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.headers["x-document-id"] == again.headers["x-document-id"]
    report = client.get("/received").json()
    assert (report["requests"], report["ids"], len(report["effects"]), report["repeated"]) == (2, 1, 1, {"evt_1": 2})


def test_the_same_id_with_another_body_is_a_conflict(erp: tuple[httpx.Client, Webhook]) -> None:
    client, signer = erp
    send(client, signer, "evt_1", json.dumps({"id": "evt_1", "data": 1}))
    assert send(client, signer, "evt_1", json.dumps({"id": "evt_1", "data": 2})).status_code == 409
    report = client.get("/received").json()
    assert (report["conflicts"], [effect["data"] for effect in report["effects"]]) == (["evt_1"], [1])


def test_a_wrong_signature_has_no_effect(erp: tuple[httpx.Client, Webhook]) -> None:
    client, _ = erp
    stranger = Webhook("whsec_" + "AAAA" * 8)
    assert send(client, stranger, "evt_1", '{"id": "evt_1"}').status_code == 401
    report = client.get("/received").json()
    assert (report["effects"], report["refused"]) == ([], 1)


@pytest.mark.parametrize(("fail", "effects"), [("after_commit", 1), ("reset", 0)])
def test_it_breaks_connections_before_or_after_the_effect(
    erp: tuple[httpx.Client, Webhook], fail: str, effects: int
) -> None:
    client, signer = erp
    assert client.post("/behave", json={"fail": fail, "for": 1}).status_code == 200
    with pytest.raises(httpx.TransportError):
        send(client, signer, "evt_1", '{"id": "evt_1"}')
    assert len(client.get("/received").json()["effects"]) == effects
    assert send(client, signer, "evt_1", '{"id": "evt_1"}').status_code == 200
    assert len(client.get("/received").json()["effects"]) == 1


def test_it_ends_at_once_though_somebody_waits(erp: tuple[httpx.Client, Webhook]) -> None:
    client, signer = erp
    client.post("/behave", json={"fail": "timeout", "for": 1})
    with pytest.raises(httpx.ReadTimeout):
        client.post("/webhook", content=b"{}", timeout=0.2)
    assert send(client, signer, "evt_1", '{"id": "evt_1"}').status_code == 200


@pytest.mark.parametrize("wanted", [{"fail": "sulk"}, {"latency": 3}, [], {"for": "x", "fail": "500"}])
def test_a_behaviour_it_does_not_know_is_refused(erp: tuple[httpx.Client, Webhook], wanted: object) -> None:
    assert erp[0].post("/behave", json=wanted).status_code == 400
