from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

from control_plane.store.engine import Stores
from tests.postgresql import TEMPLATE, Cluster, binaries, cluster

# grpc.aio's poller lives as long as the process, asyncio's own pool as long as the loop, which closes after this look.
LASTING_THREADS = ("_poll_wrapper", "asyncio_")
LEAK_PATIENCE_S = 3.0
hypothesis.settings.register_profile("comboio", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("comboio")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long ones first, so that no core has nothing to do while the other ends one."""
    items.sort(key=lambda item: item.get_closest_marker("journey") is None)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    """One server for the session, with a migrated template database."""
    found = binaries()
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL is not installed and CI is set")
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    with cluster(found) as started:
        started.run(f"CREATE DATABASE {TEMPLATE}")
        with Stores(started.url(TEMPLATE)) as stores:
            stores.migrate()
        yield started


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three migrated files."""
    folder = tmp_path_factory.mktemp("sqlite-template")
    with Stores(f"sqlite:///{folder}") as stores:
        stores.migrate()
    return folder


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh, migrated database of this test's own, on each kind of server."""
    if request.param == "sqlite":
        template: Path = request.getfixturevalue("sqlite_template")
        folder = tmp_path / "database"
        shutil.copytree(template, folder)
        yield f"sqlite:///{folder}"
        return
    server: Cluster = request.getfixturevalue("postgresql")
    name = server.spare.pop() if server.spare else server.clone()
    yield server.url(name)
    server.empty(name)  # emptying one is ten times faster than making one
    server.spare.append(name)


@pytest.fixture
def stores(database: str) -> Iterator[Stores]:
    """The three stores, migrated and empty."""
    with Stores(database) as opened:
        yield opened


@pytest.fixture(autouse=True)
def logs_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command run inside a test must not tie everybody's logs to that test's captured stderr."""
    monkeypatch.setattr("gateway.logs.configure", lambda **_: None)
    monkeypatch.setattr("control_plane.logs.configure", lambda **_: None)


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a thread, an asyncio task or a process running."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("no_task_left_behind")
    servers = _children() if "postgresql" not in request.fixturenames else set()
    threads, children = set(threading.enumerate()), servers | _children()
    yield
    deadline = time.monotonic() + LEAK_PATIENCE_S
    while (left := _left(threads, children)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left, "left behind: " + ", ".join(left)


@pytest.fixture
async def no_task_left_behind() -> AsyncIterator[None]:
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"left behind: {left}"


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def _left(threads: set[threading.Thread], children: set[int]) -> list[str]:
    names = [
        f"thread {thread.name}"
        for thread in set(threading.enumerate()) - threads
        if not any(lasting in thread.name for lasting in LASTING_THREADS)
    ]
    return names + [f"process {pid}" for pid in _children() - children if "postgres" not in _name(pid)]


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.NoSuchProcess:
        return "postgres"  # gone: not left behind
