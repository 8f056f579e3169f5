"""The control plane under load: its real processes over SQLite files or a private PostgreSQL."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
from sqlalchemy import func, select

from control_plane.listen import bound, reserved
from control_plane.settings import Address
from control_plane.store.engine import Stores
from control_plane.store.tables import PROJECTED, batch, cursor, state
from tests.postgresql import Cluster, binaries, cluster

LOOPBACK = Address("127.0.0.1", 0)
POLL_S = 0.02


class Plane:
    """Running; `cpu()` names what each part has used so far."""

    def __init__(self, folder: Path, address: str, stores: Stores, postgresql: Cluster | None) -> None:
        self.folder = folder
        self.address = address
        self.stores = stores
        self._postgresql = postgresql
        self._roles: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, role: str, *arguments: str) -> None:
        """Returns when the role says it is ready. Raises RuntimeError when it ends before."""
        reading, writing = os.pipe()
        command = [sys.executable, "-m", "control_plane", role, *arguments, "--data-dir", str(self.folder)]
        command += ["--database", self.stores.url, "--grpc", self.address, "--identity", str(LOOPBACK)]
        command += ["--supervised-by", str(os.getpid()), "--ready-fd", str(writing)]
        with (self.folder / "log").open("ab") as log:
            self._roles[role] = subprocess.Popen(command, pass_fds=(writing,), stderr=log)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            if not pipe.read(1):
                raise RuntimeError((self.folder / "log").read_text())

    def stop(self) -> None:
        for process in self._roles.values():
            process.terminate()
        for process in self._roles.values():
            process.wait(20)

    def cpu(self) -> dict[str, float]:
        used = {role: _used(psutil.Process(process.pid)) for role, process in self._roles.items()}
        if self._postgresql is not None:
            server = psutil.Process(self._postgresql.pid)
            used["postgresql"] = sum(map(_used, [server, *server.children()]))
        return used

    def memory(self, role: str) -> int:
        """Resident bytes."""
        return int(psutil.Process(self._roles[role].pid).memory_info().rss)

    def projected(self) -> bool:
        """Whether everything journalled is decoded and in state."""
        with self.stores.journal.read() as connection:
            newest = connection.execute(select(func.max(batch.c.id))).scalar_one() or 0
        with self.stores.telemetry.read() as connection:
            return (
                connection.execute(select(cursor.c.position).where(cursor.c.name == PROJECTED)).scalar() or 0
            ) >= newest

    def await_projected(self, timeout_s: float) -> float:
        """The moment it was so, in seconds since 1970."""
        deadline = time.time() + timeout_s
        while not self.projected():
            if time.time() > deadline:
                raise RuntimeError("the worker did not come to the end of the journal")
            time.sleep(POLL_S)
        return time.time()

    def counted(self) -> dict[str, int]:
        """Readings decoded so far, per gateway."""
        with self.stores.telemetry.read() as connection:
            return {row.gateway: row.readings for row in connection.execute(select(state.c.gateway, state.c.readings))}


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def running(database: str, *, pki: Path) -> Iterator[Plane]:
    """`database`: sqlite (synchronous=FULL) or postgresql (fsync on); `pki` holds the fleet's CA. Gone afterwards."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="comboio-bench-")))
        shutil.copytree(pki, folder / "pki")
        url, server = f"sqlite:///{folder}", None
        if database == "postgresql":
            found = binaries()
            if found is None:
                raise RuntimeError("PostgreSQL is not installed (apt-get install postgresql)")
            server = stack.enter_context(cluster(found))
            server.run("CREATE DATABASE bench")
            url = server.url("bench")
        stores = stack.enter_context(Stores(url))
        stores.migrate()
        holder = stack.enter_context(reserved("grpc", LOOPBACK))
        plane = Plane(folder, str(bound(LOOPBACK, holder)), stores, server)
        stack.callback(plane.stop)
        plane.start("ingest")
        plane.start("worker", "--without-history")
        plane.start("history")
        yield plane
