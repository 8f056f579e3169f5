"""A gateway daemon as systemd starts it, with simulated sensors that count and an identity nobody answers to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateway.identity.identity import Facts, Identity, root, store

ROOT = Path(__file__).parents[2]
NOBODY = "127.0.0.1:1"
CONFIG = f"""\
config_version = 1
[uplink]
server = "{NOBODY}"
batch_interval_s = 0.3
[[sensor]]
id = "counter"
driver = "simulated"
signal = "counting"
every_s = 0.02
quantities = {{ count = "1" }}
"""


def enrolled(home: Path, *, begin: datetime | None = None, life: timedelta = timedelta(days=180)) -> Identity:
    """An identity whose certificate nobody signed but itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    begin = begin or datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(7)
    signed = made.not_valid_before(begin).not_valid_after(begin + life).sign(key, hashes.SHA256())
    pem = signed.public_bytes(Encoding.PEM)
    root(home).mkdir(parents=True)
    identity = store(
        home,
        facts=Facts(gateway_id="gw-aaaaaaaaaa", grpc=NOBODY, identity=NOBODY, config_key="00" * 32),
        tls_key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate_pem=pem,
        ca_pem=pem,
    )
    identity.in_force()
    return identity


def command(home: Path, *arguments: str) -> list[str]:
    (home / "gateway.toml").write_text(CONFIG)
    more = ["--config", str(home / "gateway.toml")] if arguments[0] == "run" else []
    return [sys.executable, "-m", "gateway", *arguments, *more, "--data-dir", str(home), "--json"]


def once(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run(command(home, *arguments), cwd=ROOT, check=False, capture_output=True, text=True, timeout=30)


class Daemon:
    def __init__(self, home: Path, process: subprocess.Popen[bytes], log: Path) -> None:
        self.home = home
        self._process = process
        self._log = log

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def events(self) -> list[dict[str, Any]]:
        """Its log so far."""
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]

    def report(self) -> dict[str, Any]:
        """As `comboio-gateway buffer` tells a person, beside the running daemon."""
        found: dict[str, Any] = json.loads(once(self.home, "buffer").stdout)
        return found

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(20)


@contextmanager
def running(home: Path) -> Iterator[Daemon]:
    """Ready when it yields; gone afterwards."""
    log = home.with_name(home.name + ".log")
    with log.open("wb") as handle:
        process = subprocess.Popen(
            command(home, "run"), cwd=ROOT, stdout=subprocess.PIPE, stderr=handle, env={**os.environ}
        )
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline() or "{}") == {"ready": True}, log.read_text()
        yield Daemon(home, process, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def until(condition: Callable[[], object], within_s: float = 15.0) -> None:
    """Fails the test when it never happens."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
