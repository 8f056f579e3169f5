"""comboio-control: runs and prepares the control plane. Exit status: 0 done, 2 wrong usage, 78 misconfigured."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from control_plane import logs
from control_plane import settings as settings_file
from control_plane.errors import ComboioError, Misconfigured
from control_plane.settings import Address, Settings
from control_plane.supervise import EX_CONFIG

if TYPE_CHECKING:
    from control_plane.fleet.accounts import Accounts
    from control_plane.fleet.enrolment import Enrolment
    from control_plane.up import Running

SETTINGS = ("data_dir", "database", "http", "grpc", "identity", "public_name")
ROLES = ("viewer", "operator", "admin")

# name → "module:function", handed the arguments that follow the name
SIMULATORS: dict[str, str] = {
    "erp": "control_plane.simulators.erp:command",
    "fleet": "control_plane.simulators.fleet:command",
}


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["simulate"]:
        return _simulate(given[1:])
    options = _parser().parse_args(given)
    logs.configure(role=options.command)
    try:
        chosen = settings_file.read(options.config, **{name: getattr(options, name) for name in SETTINGS})
        return int(options.run(chosen, options))
    except ComboioError as error:
        print(f"comboio-control: {error}", file=sys.stderr)
        return EX_CONFIG


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="comboio-control", description="The control plane of a Comboio fleet.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = _command(commands, "up", _up, "web, ingest, worker and history on this machine")
    up.add_argument("--json", action="store_true", help="one JSON line when everything serves")
    for role, run in {"ingest": _ingest, "worker": _worker, "history": _history, "web": _web}.items():
        command = _command(commands, role, run, f"the {role} role alone")
        command.add_argument("--supervised-by", type=int, help=argparse.SUPPRESS)
        command.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
        command.add_argument("--http-fd", type=int, help=argparse.SUPPRESS)
        if role == "worker":
            command.add_argument("--without-history", action="store_true", help="where the history role runs too")
        if role == "ingest":
            command.add_argument("--slot", type=int, default=1, help="which of this machine's, where it runs several")
    migrate = _command(commands, "migrate", _migrate, "bring the stores to this version's tables")
    migrate.add_argument("--to", metavar="postgresql://…", help="move the SQLite stores of the data dir there")
    saved = _command(commands, "backup", _backup, "copy stores and keys to a folder; servers may go on")
    saved.add_argument("folder", type=Path)
    restore = _command(commands, "restore", _restore, "put a backup into an empty data dir or database")
    restore.add_argument("folder", type=Path)
    quarantine = _command(commands, "quarantine", _quarantine, "batches that could not be projected")
    quarantine.add_argument("--again", action="store_true", help="have the worker project them again, after a fix")
    _add_tokens(commands)
    commands.add_parser("simulate", help="stand-ins for the world around: simulate NAME …")
    return parser


def _add_tokens(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    token = commands.add_parser("token", help="API tokens").add_subparsers(required=True, metavar="COMMAND")
    create = _command(token, "create", _create_token, "print a new API token, once")
    create.add_argument("--role", choices=ROLES, required=True)
    create.add_argument("--name", default="command line")
    create.add_argument("--ttl-days", type=float, help="without it the token lasts until revoked")
    join = commands.add_parser("join-token", help="join tokens").add_subparsers(required=True, metavar="COMMAND")
    create = _command(join, "create", _create_join_token, "print a one-use token for one gateway")
    create.add_argument("--name", default="", help="the gateway's name")
    create.add_argument("--asset", help="what it will be mounted on")
    create.add_argument("--ttl-s", type=int, default=86_400)
    password = commands.add_parser("password", help="passwords").add_subparsers(required=True, metavar="COMMAND")
    reset = _command(password, "reset", _reset_password, "print a new password of an administrator")
    reset.add_argument("--name", default="admin")


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[Settings, argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text)
    command.set_defaults(run=run)
    command.add_argument("--config", type=Path, help="TOML; else control.toml in the data dir, if there is one")
    command.add_argument("--data-dir", help="keys and SQLite stores")
    command.add_argument("--database", help="postgresql://…; else SQLite in the data dir")
    command.add_argument("--http", metavar="HOST:PORT", help="web and REST; port 0 takes a free one")
    command.add_argument("--grpc", metavar="HOST:PORT", help="gateways' streams")
    command.add_argument("--identity", metavar="HOST:PORT", help="enrolment and renewal")
    command.add_argument("--public-name", help="how gateways reach this server")
    return command


def _up(settings: Settings, options: argparse.Namespace) -> int:
    from control_plane.up import up

    announce = _as_json if options.json else _as_text
    return up(settings, config=options.config, database=options.database, announce=announce)


def _as_json(running: Running, admin_password: str | None) -> None:
    line = msgspec.to_builtins(running) | {"admin_password": admin_password}
    print(msgspec.json.encode(line).decode(), flush=True)


def _as_text(running: Running, admin_password: str | None) -> None:
    print(f"web and REST  {running.http}\ngateways      {running.grpc}\nenrolment     {running.identity}")
    print(f"fleet CA      SHA-256 {running.ca_sha256}")
    if admin_password is not None:
        print(f"administrator admin, password {admin_password} (shown this once)")
    sys.stdout.flush()


def _ingest(settings: Settings, options: argparse.Namespace) -> int:
    from control_plane.wiring import run_ingest

    run_ingest(settings, _joined(options), slot=options.slot)
    return 0


def _worker(settings: Settings, options: argparse.Namespace) -> int:
    from control_plane.wiring import run_worker

    run_worker(settings, _joined(options), history=not options.without_history)
    return 0


def _history(settings: Settings, options: argparse.Namespace) -> int:
    from control_plane.wiring import run_history

    run_history(settings, _joined(options))
    return 0


def _web(settings: Settings, options: argparse.Namespace) -> int:
    from control_plane.listen import listening
    from control_plane.wsgi import serve

    ready = _joined(options)
    if options.http_fd is not None:
        serve(settings, descriptor=options.http_fd, ready=ready)
        return 0
    with listening("http", Address.parse(settings.http)) as opened:
        serve(settings, descriptor=opened.fileno(), ready=ready)
    return 0


def _joined(options: argparse.Namespace) -> Callable[[], None]:
    from control_plane.lifeline import die_with_parent, readiness

    if options.supervised_by is not None:
        die_with_parent(options.supervised_by)
    return readiness(options.ready_fd)


def _migrate(settings: Settings, options: argparse.Namespace) -> int:
    from control_plane.first_start import make_data_dir, migrate
    from control_plane.occupied import refuse_moved
    from control_plane.store.engine import Stores

    make_data_dir(settings.data)
    refuse_moved(settings)
    if options.to is not None:
        return _move(settings, options.to)
    with Stores(settings.database_url) as stores:
        migrate(stores)
    return 0


def _move(settings: Settings, to: str) -> int:
    from sqlalchemy import make_url

    from control_plane.clock import SystemClock
    from control_plane.first_start import migrate
    from control_plane.occupied import alone_on, embedded, mark_moved, unmark_moved
    from control_plane.store.engine import Stores
    from control_plane.store.transplant import transplant

    if not embedded(settings) or to.startswith("sqlite:"):
        raise Misconfigured("--to moves from SQLite to postgresql://…; leave --database out")
    _refuse_nothing(settings)
    with _told(), alone_on(settings.data), Stores(settings.database_url) as source, Stores(to) as target:
        migrate(target)
        where = make_url(to).render_as_string()

        def arrived() -> None:
            mark_moved(settings.data, to=where, now_ms=SystemClock().now_ms())

        try:
            report = transplant(source, target, arrived=arrived)
        except BaseException:
            unmark_moved(settings.data)
            raise
    print(f"{'table':<32}{'rows':>12}  fingerprint, the same on both sides")
    for one in report:
        print(f"{one.store + '.' + one.table:<32}{one.here.rows:>12}  {one.here.hex}")
    print(
        "The SQLite files are as they were. Start with --database from now on, and keep the data dir: it has the keys."
    )
    return 0


def _refuse_nothing(settings: Settings) -> None:
    from control_plane.occupied import embedded

    if embedded(settings) and not (settings.data / "journal.db").exists():
        raise Misconfigured(f"--data-dir {settings.data}: there is no journal.db; where is this installation?")


@contextmanager
def _told() -> Iterator[None]:
    """What a database or a disk refuses, as a sentence."""
    from psycopg import Error
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except DBAPIError as error:
        raise Misconfigured(f"the database says: {str(error.orig).splitlines()[0]}") from error
    except Error as error:
        raise Misconfigured(f"the database says: {str(error).splitlines()[0]}") from error
    except OSError as error:
        raise Misconfigured(f"{error.filename or 'a file'}: {error.strerror}") from error


def _backup(settings: Settings, options: argparse.Namespace) -> int:
    from control_plane.clock import SystemClock
    from control_plane.store.backup import backup
    from control_plane.store.engine import Stores

    _refuse_nothing(settings)
    with _told(), Stores(settings.database_url) as stores:
        manifest = backup(stores, settings.data, options.folder.absolute(), now_ms=SystemClock().now_ms())
    total = sum(file.bytes for file in manifest.files.values())
    rows = sum(table.rows for table in manifest.tables.values())
    print(f"{options.folder}: {rows} rows, {total / 1e6:.1f} MB, checked")
    print("It holds the fleet's keys: whoever can read it can sign certificates and configuration. Keep it like a key.")
    return 0


def _restore(settings: Settings, options: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from control_plane.first_start import make_data_dir
    from control_plane.occupied import alone_on
    from control_plane.store.backup import restore
    from control_plane.store.engine import Stores

    make_data_dir(settings.data)
    with _told(), alone_on(settings.data):
        manifest, notes = restore(options.folder.absolute(), lambda: Stores(settings.database_url), settings.data)
    made = datetime.fromtimestamp(manifest.made_ms / 1000, UTC).isoformat(timespec="seconds")
    print(f"{settings.data}: as it was at {made}")
    for note in notes:
        print(note)
    print("Gateways offer again what they were acknowledged since, as far as they still have it.")
    return 0


def _quarantine(settings: Settings, options: argparse.Namespace) -> int:
    """Exit status 1 while there are any: for scripts that watch."""
    from datetime import UTC, datetime

    from sqlalchemy import select

    from control_plane.projections.again import ask
    from control_plane.store import tables
    from control_plane.store.engine import Stores

    _refuse_nothing(settings)
    with _told(), Stores(settings.database_url) as stores:
        query = select(tables.quarantine).order_by(tables.quarantine.c.batch_id)
        with stores.telemetry.read() as connection:
            rows = connection.execute(query).all()
        for row in rows:
            at = datetime.fromtimestamp(row.at_ms / 1000, UTC).isoformat(timespec="seconds")
            print(f"{row.batch_id:>12}  {row.gateway:<16}  {at}  {row.error}")
        if not options.again:
            print(f"{len(rows)} batches; their readings are kept, and shown as lost until they can be read")
            return 1 if rows else 0
        print(f"the worker will project {ask(stores.telemetry)} batches again; ask again in a moment which are left")
    return 0


def _create_token(settings: Settings, options: argparse.Namespace) -> int:
    from control_plane.fleet.accounts import Role

    def create(accounts: Accounts, _enrolment: Enrolment) -> str:
        role = Role.named(options.role)
        return accounts.create_token(name=options.name, role=role, ttl_days=options.ttl_days).token

    return _print_made(settings, create)


def _create_join_token(settings: Settings, options: argparse.Namespace) -> int:
    def create(_accounts: Accounts, enrolment: Enrolment) -> str:
        tokens = enrolment.join_tokens
        return tokens.create(gateway_name=options.name, asset=options.asset, ttl_s=options.ttl_s).token

    return _print_made(settings, create)


def _reset_password(settings: Settings, options: argparse.Namespace) -> int:
    return _print_made(settings, lambda accounts, _enrolment: accounts.reset_password(options.name))


def _print_made(settings: Settings, make: Callable[[Accounts, Enrolment], str]) -> int:
    from control_plane.clock import SystemClock
    from control_plane.first_start import make_data_dir, migrate, same_keys
    from control_plane.fleet.accounts import Accounts
    from control_plane.fleet.authority import Authority
    from control_plane.fleet.enrolment import Enrolment
    from control_plane.occupied import refuse_moved
    from control_plane.store.engine import Stores

    make_data_dir(settings.data)
    refuse_moved(settings)
    clock, authority = SystemClock(), Authority.open(settings.data)
    with Stores(settings.database_url) as stores:
        migrate(stores)
        same_keys(stores.business, authority)
        accounts = Accounts(store=stores.business, clock=clock)
        print(make(accounts, Enrolment(stores=stores, authority=authority, clock=clock)))
    return 0


def _simulate(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] not in SIMULATORS:
        known = ", ".join(sorted(SIMULATORS)) or "none in this build"
        print(f"comboio-control simulate NAME …: one of {known}", file=sys.stderr)
        return 2
    module, _, function = SIMULATORS[arguments[0]].partition(":")
    return int(getattr(import_module(module), function)(list(arguments[1:])))
