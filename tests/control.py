"""The control plane as its operator starts it: a real `comboio-control up` on free ports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from control_plane.clock import SystemClock
from control_plane.fleet.accounts import Accounts, Role
from control_plane.fleet.authority import Authority
from control_plane.fleet.enrolment import Enrolment
from control_plane.store.engine import Stores

ROOT = Path(__file__).parent.parent
PROGRAM = (sys.executable, "-m", "control_plane")
LISTENERS = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--identity", "127.0.0.1:0")


class Up:
    """A started `up`: its process and what it announced."""

    def __init__(
        self, process: subprocess.Popen[bytes], announced: dict[str, Any], data_dir: Path, database: str
    ) -> None:
        self.process = process
        self.announced = announced
        self.data_dir = data_dir
        self.database = database

    @property
    def http(self) -> str:
        return str(self.announced["http"])

    def pids(self) -> dict[str, int]:
        """As run.json has them now."""
        pids: dict[str, int] = msgspec.json.decode((self.data_dir / "run.json").read_bytes())["pids"]
        return pids

    def join_token(self, *, name: str, ttl_s: int = 600) -> str:
        """As `comboio-control join-token create` makes it, without a process of its own."""
        authority = Authority.open(self.data_dir)
        with Stores(self.database) as stores:
            enrolment = Enrolment(stores=stores, authority=authority, clock=SystemClock())
            return enrolment.join_tokens.create(gateway_name=name, ttl_s=ttl_s).token

    def api_token(self, role: Role) -> str:
        with Stores(self.database) as stores:
            return Accounts(store=stores.business, clock=SystemClock()).create_token(name="test", role=role).token

    def get(self, path: str, token: str | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        return httpx.get(self.http + path, headers=headers, trust_env=False, verify=False)


def control(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *arguments], cwd=ROOT, check=False, capture_output=True, text=True)


@contextmanager
def running(data_dir: Path, *arguments: str, listeners: tuple[str, ...] = LISTENERS) -> Iterator[Up]:
    """Ready when it yields; terminated (if it still runs) and gone afterwards."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "log").open("ab") as log:
        process = subprocess.Popen(
            [*PROGRAM, "up", "--data-dir", str(data_dir), "--json", *listeners, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, (data_dir / "log").read_text()
        database = (
            arguments[arguments.index("--database") + 1] if "--database" in arguments else f"sqlite:///{data_dir}"
        )
        yield Up(process, msgspec.json.decode(line), data_dir, database)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(10)
        process.stdout.close()
