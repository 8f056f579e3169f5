"""Two ingests and two webs behind haproxy, as docs/examples/haproxy.cfg has it; one of each is killed under load."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import select, text

from control_plane.clock import SystemClock
from control_plane.fleet.authority import Authority
from control_plane.lifeline import command
from control_plane.listen import bound, reserved
from control_plane.settings import Address
from control_plane.store import tables
from control_plane.store.engine import Stores
from tests.control import PROGRAM, ROOT
from tests.faults.cards import Card, Fleet
from tests.faults.far_end import FarEnd
from tests.postgresql import Cluster

EXAMPLE = ROOT / "docs/examples/haproxy.cfg"
PATIENCE_S = 90.0
NAMES = [f"gw-{letter * 10}" for letter in "abcdef"]


def free() -> Address:
    with reserved("test", Address("127.0.0.1", 0)) as holder:
        return bound(Address("127.0.0.1", 0), holder)


async def until(true: Callable[[], object], what: str) -> float:
    """Seconds it took."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < PATIENCE_S, what
        await asyncio.sleep(0.05)
    return time.monotonic() - begun


@contextlib.contextmanager
def process(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        started = subprocess.Popen(command(*arguments), cwd=ROOT, stdout=output, stderr=output)
    try:
        yield started
    finally:
        started.kill()
        started.wait(30)


class Installation:
    """Every listener is known before anything runs: the balancer names them all."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder = folder
        self.database = database
        self.grpc, self.identity, self.http = ([free(), free()] for _ in range(3))
        self.front_grpc, self.front_identity, self.front_http = free(), free(), free()
        self.roles: dict[str, subprocess.Popen[bytes]] = {}

    def configured(self) -> Path:
        """The example, with this machine's addresses, and pages without TLS."""
        said = EXAMPLE.read_text()
        fronts = {":8444": self.front_grpc, ":8445": self.front_identity, ":8443": self.front_http}
        for port, front in fronts.items():
            said = re.sub(rf"bind {port}.*", f"bind {front}", said)
        of = {"8444": self.grpc, "8445": self.identity, "8443": self.http}
        for port, servers in of.items():
            for name, address in zip(("one", "two"), servers, strict=True):
                said, times = re.subn(rf"server {name} 10\.0\.0\.1\d:{port}", f"server {name} {address}", said)
                assert times == 1
        said = re.sub(r" ssl verify required ca-file \S+", "", said)
        said = said.replace("maxconn 60000", "maxconn 1000")
        path = self.folder / "haproxy.cfg"
        path.write_text(said)
        return path

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with contextlib.ExitStack() as started:
            common = ["--data-dir", str(self.folder), "--database", self.database]
            for index in range(2):
                listeners = ["--grpc", str(self.grpc[index]), "--identity", str(self.identity[index])]
                log = self.folder / f"ingest-{index}.log"
                ingest = process(*PROGRAM, "ingest", *common, *listeners, log=log)
                self.roles[f"ingest-{index}"] = started.enter_context(ingest)
                web = process(
                    *PROGRAM, "web", *common, "--http", str(self.http[index]), log=self.folder / f"web-{index}.log"
                )
                self.roles[f"web-{index}"] = started.enter_context(web)
            self.roles["worker"] = started.enter_context(
                process(*PROGRAM, "worker", *common, log=self.folder / "worker.log")
            )
            yield

    @contextlib.contextmanager
    def balanced(self) -> Iterator[None]:
        haproxy = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin")
        assert haproxy is not None
        with process(haproxy, "-db", "-f", str(self.configured()), log=self.folder / "haproxy.log"):
            yield

    def serving(self) -> bool:
        """All four of them."""
        return all(_accepts(address) for address in (*self.grpc, *self.http))

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-2000:]}" for path in self.folder.glob("*.log"))

    def web_answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://{self.front_http}/api/v1/health", timeout=5).status_code == 200
        return False


def _accepts(address: Address) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address.host, address.port), timeout=5):
        return True
    return False


class Endpoint(FarEnd):
    """What a gateway is told: the balancer's address."""

    def __init__(self, here: Installation, stores: Stores, authority: Authority, gateway: str) -> None:
        self.stores = stores
        self._address = str(here.front_grpc)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = authority.sign_gateway(key.public_key(), gateway, now_ms=SystemClock().now_ms())
        self._credentials = grpc.ssl_channel_credentials(
            root_certificates=authority.ca_pem,
            private_key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            certificate_chain=certificate.public_bytes(Encoding.PEM),
        )

    async def before_connecting(self) -> tuple[str, grpc.ChannelCredentials]:
        return self._address, self._credentials


@contextlib.asynccontextmanager
async def producing(cards: list[Card]) -> AsyncIterator[None]:
    """Each gateway reads and seals all the time."""
    over = asyncio.Event()

    async def run(card: Card) -> None:
        while not over.is_set():
            await card.sealed(1)
            await asyncio.sleep(0.1)

    running = [asyncio.create_task(run(card)) for card in cards]
    try:
        yield
    finally:
        over.set()
        await asyncio.gather(*running)


@pytest.mark.journey
@pytest.mark.timeout(600)
async def test_a_killed_replica_behind_a_balancer_costs_nothing_but_seconds(
    postgresql: Cluster, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    if not shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("haproxy is not installed (apt-get install haproxy)")
    here = Installation(tmp_path, postgresql.new_database())
    with Stores(here.database) as stores, contextlib.ExitStack() as started:
        stores.migrate()
        authority = Authority.open(tmp_path)
        started.enter_context(here.running())
        fleet = Fleet(stores)
        cards = [await Card(fleet, tmp_path / name).open() for name in NAMES]
        try:
            await until(here.serving, "not all serve: " + here.logs())
            started.enter_context(here.balanced())
            await until(here.web_answers, "web does not answer: " + here.logs())
            async with contextlib.AsyncExitStack() as links:
                ends = [Endpoint(here, stores, authority, name) for name in NAMES]
                linked = [
                    await links.enter_async_context(card.linked(end)) for card, end in zip(cards, ends, strict=True)
                ]
                await until(lambda: all(link.health.connected for link in linked), "not connected: " + here.logs())
                spread = who(stores)
                assert len(set(spread.values())) == 2, f"all gateways went to one ingest: {spread}"
                async with producing(cards):
                    await asyncio.sleep(1.0)
                    victims = {name for name, ingest in spread.items() if ingest.endswith(str(here.grpc[0]))}
                    here.roles["ingest-0"].kill()
                    here.roles["web-0"].kill()
                    took_s = await until(
                        lambda: all(who(stores).get(name, spread[name]) != spread[name] for name in victims),
                        "gateways did not come back: " + here.logs(),
                    )
                    record_property("back_s", round(took_s, 1))
                    await until(here.web_answers, "pages do not answer: " + here.logs())
                    await asyncio.sleep(1.0)
                for card in cards:
                    await card.emptied()
            assert len(set(who(stores).values())) == 1
            await until(lambda: projected(stores), "the worker is behind: " + here.logs())
            want = Counter(dict.fromkeys(range(1, fleet.produced + 1), 1))
            assert read(fleet) == want
        finally:
            for card in cards:
                await card.close()


def who(stores: Stores) -> dict[str, str]:
    """Which ingest has each gateway's stream."""
    query = select(tables.presence.c.gateway, tables.presence.c.server).where(tables.presence.c.left_ms.is_(None))
    with stores.journal.read() as connection:
        return {row.gateway: row.server for row in connection.execute(query)}


def projected(stores: Stores) -> bool:
    with stores.journal.read() as connection:
        newest = connection.execute(text("SELECT max(id) FROM journal.batch")).scalar_one()
        read = text("SELECT position FROM telemetry.cursor WHERE name = 'telemetry'")
        position = connection.execute(read).scalar()
    return bool(newest == position)


def read(fleet: Fleet) -> Counter[int]:
    """Without projecting: the worker has."""
    fleet.projector.step = lambda: False  # type: ignore[method-assign]
    return fleet.arrived(*NAMES)
