from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Row, select

from control_plane.relay.connectors.webhook import WebhookConnector, WebhookDestination
from control_plane.relay.deliver import Deliverer
from control_plane.simulators.erp import ErpServer
from control_plane.store.engine import Store, Stores
from control_plane.store.tables import attempt, outbox
from tests.control_plane.conftest import TurnedClock
from tests.control_plane.relay import far_side
from tests.control_plane.relay.far_side import SECRET, Sink, post


class Killed(BaseException):
    """What no code of ours catches."""


class Relay:
    """A destination, its outbox and the relays that serve it."""

    def __init__(self, store: Store, clock: TurnedClock, secret_file: Path, url: str) -> None:
        self.store = store
        self.clock = clock
        self.destination = WebhookDestination(
            name="erp",
            url=url,
            secret_file=str(secret_file),
            allow_private=True,
            timeout_s=5.0,
            retry=(10.0, 100.0),
            grace_s=60.0,
        )
        self._started: list[tuple[Deliverer, WebhookConnector]] = []

    def start(self, *, seed: int = 1, clock: TurnedClock | None = None) -> Deliverer:
        connector = WebhookConnector(self.destination)
        deliverer = Deliverer(
            store=self.store,
            destination=self.destination,
            connector=connector,
            clock=clock or self.clock,
            rng=random.Random(seed),
        )
        self._started.append((deliverer, connector))
        return deliverer

    async def stop(self) -> None:
        for deliverer, connector in self._started:
            await deliverer.close()
            await connector.close()

    def post(self, start: int = 1, **keys: int) -> None:
        post(self.store, self.destination, keys, now_ms=self.clock.now_ms(), start=start)

    def rows(self) -> list[Row[Any]]:
        with self.store.read() as connection:
            return list(connection.execute(select(outbox).order_by(outbox.c.key, outbox.c.seq)))

    def states(self) -> list[str]:
        return [row.state for row in self.rows()]

    def attempts(self) -> list[Row[Any]]:
        with self.store.read() as connection:
            return list(connection.execute(select(attempt).order_by(attempt.c.id)))


async def drain(deliverer: Deliverer) -> None:
    """Until nothing is due."""
    async with asyncio.timeout(60):
        while await deliverer.step():
            pass


async def eventually(happened: Callable[[], bool], step: Callable[[], Awaitable[object]] | None = None) -> None:
    async with asyncio.timeout(20):
        while not happened():
            await (step() if step is not None else asyncio.sleep(0.01))


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, number: int, *, committed: bool) -> Iterator[list[int]]:
    """Die just before, or just after, the commit of the number-th write transaction."""
    count: list[int] = []
    write = Store.write

    @contextmanager
    def counted(store: Store) -> Iterator[Connection]:
        count.append(1)
        mine = len(count)
        with write(store) as connection:
            yield connection
            if mine == number and not committed:
                raise Killed
        if mine == number:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", counted)
        yield count


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "erp.secret"
    path.write_text(SECRET + "\n")
    return path


@pytest.fixture
def erp() -> Iterator[ErpServer]:
    with far_side.erp() as server:
        yield server


@pytest.fixture
def sink() -> Iterator[Sink]:
    with far_side.serving(Sink()) as server:
        yield server


@pytest.fixture
async def relay(stores: Stores, clock: TurnedClock, secret_file: Path, erp: ErpServer) -> AsyncIterator[Relay]:
    """Towards the ERP stand-in."""
    made = Relay(stores.business, clock, secret_file, f"http://127.0.0.1:{erp.server_port}/webhook")
    yield made
    await made.stop()


@pytest.fixture
async def to_sink(stores: Stores, clock: TurnedClock, secret_file: Path, sink: Sink) -> AsyncIterator[Relay]:
    made = Relay(stores.business, clock, secret_file, sink.url)
    yield made
    await made.stop()
