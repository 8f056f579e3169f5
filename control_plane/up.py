"""`comboio-control up`: prepare, reserve the ports, run the roles, say where they are."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from control_plane import first_start
from control_plane.durable import replace_file
from control_plane.errors import Misconfigured
from control_plane.listen import bound, listening, reserved
from control_plane.occupied import running_on
from control_plane.settings import Address, Settings
from control_plane.supervise import Child, Supervisor

ROLES = ("ingest", "worker", "history", "web")


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """run.json, and with `admin_password` the line of `up --json`."""

    http: str
    grpc: str
    identity: str
    ca_sha256: str
    supervisor: int
    pids: dict[str, int]


def up(
    settings: Settings,
    *,
    config: Path | None,
    database: str | None,
    announce: Callable[[Running, str | None], None],
) -> int:
    """Run until told to stop. `announce` is called once, when all roles serve, with the password if it is new.

    `config` and `database` as the command line gave them: a URL from a file, with its password, must not show up
    among the arguments of the children.
    """
    first_start.make_data_dir(settings.data)
    with _only_one(settings.data), running_on(settings), ExitStack() as sockets:
        http = sockets.enter_context(listening("http", settings.http_address))
        grpc = sockets.enter_context(reserved("grpc", Address.parse(settings.grpc)))
        identity = sockets.enter_context(reserved("identity", Address.parse(settings.identity)))
        settings = msgspec.structs.replace(
            settings,
            http=str(bound(settings.http_address, http)),
            grpc=str(bound(Address.parse(settings.grpc), grpc)),
            identity=str(bound(Address.parse(settings.identity), identity)),
        )
        prepared = first_start.prepare(settings)
        report = _Report(settings, prepared, announce)
        children = [
            _child(role, settings, config=config, database=database, http_fd=http.fileno())
            for role in (*ROLES, *(f"ingest-{slot}" for slot in range(2, settings.ingest.processes + 1)))
        ]
        return Supervisor(children, on_change=report).run()


def _child(role: str, settings: Settings, *, config: Path | None, database: str | None, http_fd: int) -> Child:
    command, _, slot = role.partition("-")
    fixed = [sys.executable, "-m", "control_plane", command]
    if slot:
        fixed += ["--slot", slot]
    if command == "worker":
        fixed.append("--without-history")
    for option in ("data_dir", "http", "grpc", "identity", "public_name"):
        fixed += [f"--{option.replace('_', '-')}", getattr(settings, option)]
    if database is not None:
        fixed += ["--database", database]
    if config is not None:
        fixed += ["--config", str(config)]
    fixed += ["--supervised-by", str(os.getpid())]
    if role != "web":
        return Child(role=role, argv=lambda ready: [*fixed, "--ready-fd", str(ready)])
    return Child(
        role=role,
        argv=lambda ready: [*fixed, "--ready-fd", str(ready), "--http-fd", str(http_fd)],
        pass_fds=(http_fd,),
    )


class _Report:
    """Keeps run.json true, and announces the first time."""

    def __init__(
        self,
        settings: Settings,
        prepared: first_start.Prepared,
        announce: Callable[[Running, str | None], None],
    ) -> None:
        self._settings = settings
        self._prepared = prepared
        self._announce = announce
        self._announced = False

    def __call__(self, pids: Mapping[str, int]) -> None:
        settings = self._settings
        scheme = "http" if settings.http_address.loopback else "https"
        running = Running(
            http=f"{scheme}://{settings.advertised(settings.http)}",
            grpc=settings.advertised(settings.grpc),
            identity=settings.advertised(settings.identity),
            ca_sha256=self._prepared.ca_sha256,
            supervisor=os.getpid(),
            pids=dict(pids),
        )
        replace_file(settings.data / "run.json", msgspec.json.format(msgspec.json.encode(running)))
        if not self._announced:
            self._announced = True
            self._announce(running, self._prepared.admin_password)


@contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    """Holds the folder's lock; a second `up` is told who has it."""
    path = data_dir / "up.lock"
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            raise Misconfigured(
                f"--data-dir {data_dir}: another comboio-control up (pid {holder}) runs on it"
            ) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield
