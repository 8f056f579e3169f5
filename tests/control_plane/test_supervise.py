"""The real program, killed in the ways that happen."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from control_plane.fleet.authority import Authority
from control_plane.listen import bound, listening, reserved
from control_plane.settings import Address
from control_plane.supervise import Child, Supervisor
from protos.comboio.v1 import identity_pb2 as pb
from protos.comboio.v1 import identity_pb2_grpc as rpc
from tests.control import LISTENERS, Up, control, running


def eventually(true: Callable[[], bool], *, within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def serves(up: Up) -> bool:
    try:
        return up.get("/api/v1/health").status_code == 200
    except httpx.HTTPError:
        return False


def tree(up: Up) -> list[psutil.Process]:
    return psutil.Process(up.process.pid).children(recursive=True)


def all_gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


@pytest.mark.parametrize("role", ["web", "ingest", "worker", "history"])
def test_a_killed_role_comes_back_on_the_same_ports(tmp_path: Path, role: str) -> None:
    with running(tmp_path) as up:
        before = up.pids()
        assert before == up.announced["pids"]
        os.kill(before[role], signal.SIGKILL)
        eventually(lambda: up.pids()[role] != before[role])
        assert {name: pid for name, pid in up.pids().items() if name != role} == {
            name: pid for name, pid in before.items() if name != role
        }
        eventually(lambda: serves(up))
        ca = Authority.open(tmp_path).ca_pem
        with grpc.secure_channel(up.announced["identity"], grpc.ssl_channel_credentials(ca)) as channel:
            grpc.channel_ready_future(channel).result(timeout=10)


def test_a_killed_supervisor_leaves_nobody_behind(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        processes = tree(up)
        assert len(processes) >= 5  # four roles and gunicorn's worker
        up.process.kill()
        eventually(lambda: all_gone(processes), within_s=5)
        up.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as up:
        processes = tree(up)
        up.process.send_signal(number)
        assert up.process.wait(30) == 0
        assert all_gone(processes)


def test_logs_are_json_lines_that_name_their_role(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        ca = Authority.open(tmp_path).ca_pem
        with (
            grpc.secure_channel(up.announced["identity"], grpc.ssl_channel_credentials(ca)) as channel,
            pytest.raises(grpc.RpcError),
        ):
            rpc.IdentityStub(channel).Enrol(pb.EnrolRequest(), timeout=5)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {(line["role"], line["event"]) for line in lines} >= {("up", "child.ready"), ("ingest", "identity.denied")}
    assert all(line["timestamp"].endswith("Z") for line in lines)


def test_a_second_up_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        second = control("up", "--data-dir", str(tmp_path), *LISTENERS)
        assert second.returncode == 78
        assert f"another comboio-control up (pid {up.process.pid}) runs on it" in second.stderr
        assert serves(up)


@pytest.mark.parametrize("listener", ["http", "grpc", "identity"])
def test_a_port_in_use_names_the_setting(tmp_path: Path, listener: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        wanted = [
            address if before == f"--{listener}" else item
            for before, item in zip(("", *LISTENERS), LISTENERS, strict=False)
        ]
        refused = control("up", "--data-dir", str(tmp_path), *wanted)
    assert refused.returncode == 78
    assert f"--{listener} {address}: Address already in use" in refused.stderr


def test_a_restart_keeps_authority_and_says_no_password_again(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        first = up.announced
    with running(tmp_path) as up:
        second = up.announced
    assert first["admin_password"]
    assert second["admin_password"] is None
    assert first["ca_sha256"] == second["ca_sha256"]


def test_an_unusable_database_is_refused(tmp_path: Path) -> None:
    refused = control(
        "up", "--data-dir", str(tmp_path), *LISTENERS, "--database", "postgresql:///nowhere?host=/nowhere"
    )
    assert refused.returncode == 78
    assert "--database: can't be used" in refused.stderr


def child(code: str) -> Child:
    return Child(role="role", argv=lambda _ready: [sys.executable, "-c", code])


def test_a_role_that_is_misconfigured_ends_the_whole() -> None:
    assert Supervisor([child("raise SystemExit(78)")], on_change=lambda _pids: None).run() == 78


def test_a_role_that_keeps_failing_waits_longer_each_time() -> None:
    failing, delays = child(""), []
    for _ in range(8):
        ready, ended = failing.start()
        failing.ended(1000.0)
        delays.append(round(failing.start_at_s - 1000, 1))
        os.close(ready)
        os.close(ended)
    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_other_than_loopback_serves_tls_under_the_fleet_ca(tmp_path: Path) -> None:
    listeners = ("--http", "0.0.0.0:0", *LISTENERS[2:], "--public-name", "localhost")
    with running(tmp_path, listeners=listeners) as up:
        assert up.http.startswith("https://localhost:")
        context = ssl.create_default_context(cadata=Authority.open(tmp_path).ca_pem.decode())
        assert httpx.get(f"{up.http}/api/v1/health", verify=context, trust_env=False).status_code == 200


def test_a_reserved_port_is_shared_only_with_its_server() -> None:
    with reserved("grpc", Address("127.0.0.1", 0)) as holder:
        address = bound(Address("127.0.0.1", 0), holder)
        with pytest.raises(Exception, match="in use"):
            listening("grpc", address)
        with pytest.raises(Exception, match="in use"):
            reserved("grpc", address)
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            server.bind((address.host, address.port))
            server.listen()
            for _ in range(20):
                socket.create_connection(address, timeout=1).close()
                server.accept()[0].close()


def test_a_database_named_in_a_file_stays_out_of_the_arguments(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/elsewhere"
    (tmp_path / "control.toml").write_text(f'database = "{url}"')
    with running(tmp_path) as up:
        assert (tmp_path / "elsewhere" / "journal.db").exists()
        assert not (tmp_path / "journal.db").exists()
        assert not any(url in argument for process in tree(up) for argument in process.cmdline())


def test_runs_on_postgresql_too(tmp_path: Path, database: str) -> None:
    with running(tmp_path, *(() if database.startswith("sqlite") else ("--database", database))) as up:
        token = httpx.post(
            f"{up.http}/api/v1/api-tokens", auth=("admin", up.announced["admin_password"]), trust_env=False
        ).json()["token"]
        health = up.get("/api/v1/health/detail", token).json()
        assert health["status"] == "ok"
        assert health["roles"] == up.pids()
