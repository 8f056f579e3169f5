"""Private servers for tests: found, or a skip with its reason for a user and a failure in CI."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SBIN = "/usr/sbin"


def require(program: str, package: str) -> str:
    """Where it is installed."""
    found = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), SBIN]))
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{program} is not installed and CI is set")
        pytest.skip(f"{program} is not installed (apt-get install {package})")
    return found


class Mosquitto:
    """A broker that keeps sessions in memory only: killed, it forgets them, as brokers do."""

    def __init__(self, folder: Path) -> None:
        self._program = require("mosquitto", "mosquitto")
        self._config = folder / "mosquitto.conf"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        """`more`: settings, in place of those of the same name here."""
        usual = {"allow_anonymous": "true", "persistence": "false"} | ({"user": "nobody"} if os.geteuid() == 0 else {})
        given = {line.partition(" ")[0] for line in more}
        lines = [f"listener {self.port} 127.0.0.1", *more]
        lines += [f"{name} {value}" for name, value in usual.items() if name not in given]
        self._config.write_text("\n".join(lines) + "\n")
        self._process = subprocess.Popen(
            [self._program, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, "mosquitto did not start"
                assert self._process.poll() is None, "mosquitto ended"
                time.sleep(0.01)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def mosquitto(folder: Path) -> Iterator[Mosquitto]:
    """Started on a free port; gone afterwards."""
    broker = Mosquitto(folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()
