"""comboio-gateway: enrol, run, status, sensors, explain, write, identify, check-config, plan, buffer, field, simulate.

Of the device library: profiles, boards, capture.

Exit status: 0 done · 1 refused, with the reason on stderr · 2 wrong usage · 3 the control plane can't be reached.
Of `status`, `sensors` and `explain`: 0 healthy · 1 something is red · 3 the daemon is not running.
Of `identify`: 0 it said what it is · 1 it did not.
Of `write`: 0 done · 1 not done, or nobody can tell · 3 the daemon is not running.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import ComboioError, Retryable

if TYPE_CHECKING:
    from protos.config import GatewayConfig

DATA_DIR = Path("/var/lib/comboio-gateway")
CONFIG = Path("/etc/comboio/gateway.toml")
LOCAL = DATA_DIR / "profiles"
"""Profiles of this box's own."""


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except Retryable as error:
        print(f"comboio-gateway: {error}", file=sys.stderr)
        return 3
    except ComboioError as error:
        print(f"comboio-gateway: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"comboio-gateway: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="comboio-gateway", description="The edge gateway: reads sensors, loses nothing, tells the control plane."
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show program's version number and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    enrol = commands.add_parser("enrol", help="join a fleet with a token from its control plane")
    enrol.add_argument("--server", required=True, metavar="URL", help="http(s) address of the control plane")
    enrol.add_argument("--token", required=True, help="join token, cj1.…")
    enrol.set_defaults(run=_enrol)

    run = commands.add_parser("run", help="read sensors and deliver, until stopped")
    run.set_defaults(run=_run)

    check = commands.add_parser("check-config", help="say everything that is wrong with a configuration")
    check.set_defaults(run=_check)

    plan = commands.add_parser("plan", help="which requests go to each bus, what they cost, how fresh values are")
    plan.set_defaults(run=_plan)

    buffer = commands.add_parser("buffer", help="what the buffer holds, and what was lost and why")
    buffer.set_defaults(run=_buffer)
    told = buffer.add_subparsers(metavar="COMMAND")
    ledger = told.add_parser("ledger", help="hour by hour: read, delivered, waiting, lost and why")
    ledger.add_argument("sensor", nargs="?", metavar="SENSOR", help="a sensor, or sensor/quantity")
    ledger.add_argument("--hours", type=_at_least_one, metavar="N", help="the newest N hours; without it, all of them")
    ledger.add_argument("--data-dir", type=Path, default=argparse.SUPPRESS, metavar="DIR", help=f"default {DATA_DIR}")
    ledger.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="answer as JSON")
    ledger.set_defaults(run=_ledger)

    status = commands.add_parser("status", help="how this box is, asked of the running daemon")
    status.set_defaults(run=_status)

    live = commands.add_parser("sensors", help="what every sensor says now")
    live.add_argument("--watch", action="store_true", help="again every second, until stopped")
    live.set_defaults(run=_sensors)

    explain = commands.add_parser("explain", help="the way of one quantity, from its device to the control plane")
    explain.add_argument("tag", metavar="TAG", help="sensor/quantity, or a sensor")
    explain.set_defaults(run=_explain)

    write = commands.add_parser("write", help="set a quantity of a device, where its configuration allows it")
    write.add_argument("sensor", metavar="SENSOR")
    write.add_argument("quantity", metavar="QUANTITY")
    write.add_argument("value", metavar="VALUE", help="a number, true or false, or a text")
    write.add_argument("--expect", metavar="VALUE", help="only if the device holds this now")
    write.set_defaults(run=_write)

    identify = commands.add_parser("identify", help="what a Modbus device says that it is")
    identify.add_argument("--bus", required=True, metavar="ID", help="a [[bus]] of the configuration")
    identify.add_argument("--unit", type=int, default=1, metavar="N", help="unit id (default 1)")
    identify.set_defaults(run=_identify)

    field = commands.add_parser("field", help="the box's own page").add_subparsers(required=True, metavar="COMMAND")
    pin = field.add_parser("set-pin", help="set the PIN that opens it; those signed in must sign in again")
    pin.add_argument("--stdin", action="store_true", help="read it from standard input")
    pin.add_argument("--pin-file", type=Path, metavar="FILE", help="as field.pin_file of the configuration has it")
    pin.set_defaults(run=_set_pin)

    ble = commands.add_parser("ble", help="Bluetooth sensors").add_subparsers(required=True, metavar="COMMAND")
    forget = ble.add_parser("forget", help="believe a sensor with a key that counts from the start again")
    forget.add_argument("address", help="as in the configuration, e.g. D4:12:43:55:AA:01")
    forget.set_defaults(run=_forget)

    for command in (enrol, run, buffer, status, live, explain, write, identify, pin, forget):
        command.add_argument("--data-dir", type=Path, default=DATA_DIR, metavar="DIR", help=f"default {DATA_DIR}")
    for command in (run, check, plan, identify):
        command.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help=f"default {CONFIG}")
    for command in (check, plan):
        command.add_argument(
            "--profiles", type=Path, default=LOCAL, metavar="DIR", help=f"of this box; default {LOCAL}"
        )
    for command in (enrol, run, check, plan, buffer, status, live, explain, write, identify):
        command.add_argument("--json", action="store_true", help="answer as JSON")

    simulate = commands.add_parser("simulate", help="simulated devices and links, for trying things out")
    simulate.set_defaults(run=_simulate)
    from gateway.simulators import cli as simulators

    simulators.add_arguments(simulate)

    from gateway.library import cli as library

    library.add_arguments(commands, local=LOCAL, config=CONFIG)
    return parser


class _ShowVersion(argparse.Action):
    """As argparse's own, but the version is looked up (80 ms on a small box) only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.exit(message=f"comboio {_version()}\n")


def _enrol(args: argparse.Namespace) -> int:
    from gateway.identity.enrol import enrol

    identity = enrol(args.server, args.token, args.data_dir)
    if args.json:
        print(json.dumps({"gateway_id": identity.gateway_id, "grpc": identity.grpc_address}))
    else:
        print(f"Enrolled as {identity.gateway_id}; certificate valid until {identity.not_after:%Y-%m-%d}.")
        print(f"Now run: comboio-gateway run --config {CONFIG} --data-dir {args.data_dir}")
    return 0


def _run(args: argparse.Namespace) -> int:
    from firmware_configs.loader import Profiles
    from gateway import daemon, logs, settings
    from gateway.clock import SystemClock

    profiles = Profiles(local=args.data_dir / LOCAL.name)
    config = settings.load(args.config, profiles)
    logs.configure(role="gateway")

    def ready() -> None:
        if args.json:
            print(json.dumps({"ready": True}), flush=True)

    with _only_one(args.data_dir):
        asyncio.run(
            daemon.run(
                config,
                data_dir=args.data_dir,
                clock=SystemClock(),
                profiles=profiles,
                version=_version,
                ready=ready,
            )
        )
    return 0


def _check(args: argparse.Namespace) -> int:
    from gateway.errors import Misconfigured

    try:
        config, advice = _check_whole(args.config, args.profiles)
    except Misconfigured as error:
        problems = str(error).splitlines()
        if args.json:
            print(json.dumps({"ok": False, "problems": problems}, ensure_ascii=False))
        else:
            print("\n".join(problems), file=sys.stderr)
            print(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}.", file=sys.stderr)
        return 1
    if args.json:
        counted = {"sensors": len(config.sensor), "buses": len(config.bus)}
        print(json.dumps({"ok": True, **counted, "advice": advice}, ensure_ascii=False))
    else:
        sensors, buses = len(config.sensor), len(config.bus)
        print("".join(f"{line}\n" for line in advice), end="", file=sys.stderr)
        print(f"{args.config}: good. {_many(sensors, 'sensor')} on {_many(buses, 'bus', 'buses')}.")
    return 0


def _check_whole(path: Path, local: Path) -> tuple[GatewayConfig, list[str]]:
    """It and what may be better, after all that `run` does before it touches a device. Raises Misconfigured."""
    from firmware_configs.loader import Profiles
    from gateway import checking, settings
    from gateway.clock import SystemClock
    from gateway.errors import Misconfigured

    profiles = Profiles(local=local)
    config = settings.load(path, profiles)
    problems = checking.problems(config, clock=SystemClock(), profiles=profiles)
    if problems:
        raise Misconfigured("\n".join(f"{path}: {line}" for line in problems))
    return config, [f"{path}: {line}" for line in checking.advice(config)]


def _plan(args: argparse.Namespace) -> int:
    from firmware_configs.loader import Profiles
    from gateway import planning

    found = planning.report(args.config, Profiles(local=args.profiles))
    print(json.dumps(found) if args.json else planning.text(found))
    return 0 if all(bus["fits"] or bus["best_effort"] for bus in found) else 1


def _many(count: int, one: str, several: str | None = None) -> str:
    return f"{count} {one if count == 1 else several or one + 's'}"


def _buffer(args: argparse.Namespace) -> int:
    from gateway.buffer import inspect

    report = inspect.report(args.data_dir / "buffer")
    print(json.dumps(report) if args.json else inspect.text(report))
    return 0


def _ledger(args: argparse.Namespace) -> int:
    from gateway.buffer import balance

    lines = balance.ledger(args.data_dir / "buffer", sensor=args.sensor, hours=args.hours)
    print(_json(lines) if args.json else balance.text(lines))
    return 0


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: give a number of hours from 1")
    return int(text)


def _forget(args: argparse.Namespace) -> int:
    from gateway.lock import only_one
    from gateway.sensors.ble_memory import FILE, forget

    with only_one(args.data_dir):
        known = forget(args.data_dir / "ble" / FILE, args.address.upper())
    print(f"{args.address}: {'its next counter is believed' if known else 'no counter of it is kept'}")
    return 0 if known else 1


def _status(args: argparse.Namespace) -> int:
    from gateway.health import table
    from gateway.health.status import ask

    picture = ask(args.data_dir)
    if picture is None:
        return _not_running(args)
    print(_json(picture) if args.json else table.status(picture))
    return 1 if picture.red else 0


def _sensors(args: argparse.Namespace) -> int:
    import time

    from gateway.health import table
    from gateway.health.status import ask

    while True:
        picture = ask(args.data_dir)
        if picture is None:
            return _not_running(args)
        said = _json(picture.sensors) if args.json else table.sensors(picture)
        clear = "\x1b[H\x1b[2J" if args.watch and not args.json and sys.stdout.isatty() else ""
        print(clear + said, end="\n\n" if args.watch and not args.json else "\n", flush=True)
        if not args.watch:
            return 1 if any(sensor.problem is not None for sensor in picture.sensors) else 0
        time.sleep(1.0)


def _explain(args: argparse.Namespace) -> int:
    from gateway.buffer.position import positions
    from gateway.health import explanation
    from gateway.health.status import ask_why
    from gateway.resting import by_the_files

    running = ask_why(args.data_dir, args.tag)
    if running is not None and not running.known:
        found = running
    else:
        where = positions(args.data_dir / "buffer", args.tag.partition("/")[0])
        found = by_the_files(args.tag, where, running)
    print(_json(found) if args.json else explanation.text(found))
    if running is None:
        return 3
    return 1 if found.wrong else 0


def _write(args: argparse.Namespace) -> int:
    from gateway.health.status import ask_to_write
    from protos.commands import Write, encoded, typed

    expect = None if args.expect is None else typed(args.expect)
    asked = Write(sensor=args.sensor, quantity=args.quantity, value=typed(args.value), expect=expect)
    found = ask_to_write(args.data_dir, encoded(asked))
    if found is None:
        print(f"comboio-gateway is not running on {args.data_dir}; only it talks to its devices.", file=sys.stderr)
        return 3
    print(_json(found) if args.json else f"{found.state.lower()}: {found.text}")
    return 0 if found.state == "DONE" else 1


def _identify(args: argparse.Namespace) -> int:
    from firmware_configs.loader import Profiles
    from gateway import identifying, settings
    from gateway.health.status import ask_to_identify

    found = ask_to_identify(args.data_dir, args.bus, args.unit)
    if found is None or not found.here:
        found = identifying.by_ourselves(settings.load(args.config, Profiles()), args.bus, args.unit)
    if args.json:
        print(_json({"bus": args.bus, "unit": args.unit, "said": found.said, "problem": found.problem or None}))
    else:
        print(identifying.text(args.bus, args.unit, found))
    return 1 if found.problem else 0


def _not_running(args: argparse.Namespace) -> int:
    """What the folder says instead."""
    from gateway.buffer import inspect
    from gateway.errors import Misconfigured

    found = None
    try:
        found = inspect.report(args.data_dir / "buffer")
        said = inspect.text(found)
    except (Misconfigured, OSError) as error:
        said = str(error)
    if args.json:
        print(json.dumps({"running": False, "buffer": found}))
    else:
        print(f"comboio-gateway is not running on {args.data_dir}. What it left:\n\n{said}")
    return 3


def _json(what: object) -> str:
    import msgspec

    return msgspec.json.encode(what).decode()


def _set_pin(args: argparse.Namespace) -> int:
    from getpass import getpass

    from gateway.errors import Misconfigured
    from gateway.field import pin

    path = args.pin_file or args.data_dir / pin.NAME
    if args.stdin:
        told = sys.stdin.readline().rstrip("\r\n")
    else:
        told = getpass("New PIN: ")
        if getpass("The same again: ") != told:
            raise Misconfigured("the two are not the same; nothing was changed")
    pin.write(path, told)
    print(f"The PIN is set, in {path}.")
    return 0


def _simulate(args: argparse.Namespace) -> int:
    from gateway.simulators import cli as simulators

    return simulators.main(args)


def _only_one(data_dir: Path):  # type: ignore[no-untyped-def]  # noqa: ANN202
    from gateway.lock import only_one

    return only_one(data_dir)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("comboio")
    except PackageNotFoundError:
        return "0+source"
