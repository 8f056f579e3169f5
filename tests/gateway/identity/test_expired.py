"""A box that slept past its certificate's end comes back by itself."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from control_plane.fleet.accounts import Role
from control_plane.fleet.authority import Authority
from gateway.identity.enrol import enrol
from gateway.identity.files import write_durably
from gateway.identity.identity import Identity
from tests.control import running
from tests.faults.daemons import CONFIG, NOBODY, until
from tests.gateway.test_daemon import started

DAY_MS = 86_400_000


@pytest.mark.parametrize("ended_days_ago", [1, 400])
def test_an_expired_certificate_is_renewed_at_the_start_and_data_arrives(tmp_path: Path, ended_days_ago: int) -> None:
    home = tmp_path / "gateway"
    with running(tmp_path / "control") as control:
        joined = enrol(control.http, control.join_token(name="truck 17"), home)
        authority = Authority.open(control.data_dir)
        key = load_pem_private_key(joined.tls_key_path.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        began_ms = int(datetime.now(UTC).timestamp() * 1000) - (180 + ended_days_ago) * DAY_MS
        expired = authority.sign_gateway(key.public_key(), joined.gateway_id, now_ms=began_ms)
        write_durably(joined.certificate_path, expired.public_bytes(Encoding.PEM) + authority.ca_pem)
        assert Identity.load(home).not_after < datetime.now(UTC)
        (home / "gateway.toml").write_text(CONFIG.replace(NOBODY, ""))
        arguments = ["run", "--config", str(home / "gateway.toml"), "--data-dir", str(home)]
        with started(tmp_path / "daemon.log", *arguments) as (process, said):
            assert said == {"ready": True}
            until(lambda: Identity.load(home).not_after > datetime.now(UTC))
            token = control.api_token(Role.VIEWER)
            series = f"{joined.gateway_id}/counter/count"

            def arrived() -> bool:
                answer = control.get(f"/api/v1/readings?series={series}", token)
                return answer.status_code == 200 and bool(answer.json()["series"][0]["values"])

            until(arrived, within_s=30)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
    events = [json.loads(line) for line in (tmp_path / "daemon.log").read_text().splitlines() if line[:1] == "{"]
    assert "certificate.renewed" in [event["event"] for event in events]
