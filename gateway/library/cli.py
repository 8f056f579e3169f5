"""`comboio-gateway profiles | boards | capture`: the device library on the command line."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gateway.errors import Misconfigured, Retryable

if TYPE_CHECKING:
    from firmware_configs.loader import Profiles
    from firmware_configs.schema import Timing
    from gateway.sensors.modbus_link import Link
    from protos.config import Bus

T = TypeVar("T")


def add_arguments(commands: argparse._SubParsersAction[argparse.ArgumentParser], *, local: Path, config: Path) -> None:
    """Add `profiles`, `boards` and `capture`. `local`: where a box has its own profiles, unless told otherwise."""
    profiles = commands.add_parser("profiles", help="which devices are known, and how to add one")
    verbs = profiles.add_subparsers(required=True, metavar="COMMAND")
    listing = verbs.add_parser("list", help="every profile of this box")
    listing.set_defaults(run=_list)
    show = verbs.add_parser("show", help="a profile's registers, sources and requests")
    show.add_argument("profile", metavar="NAME", help="vendor-model@version")
    show.set_defaults(run=_show)
    check = verbs.add_parser("check", help="say everything that is wrong with a profile, and run its cases")
    check.add_argument("file", type=Path, nargs="+", metavar="FILE")
    check.add_argument("--cases", type=Path, metavar="DIR", help="default: cases/ beside the profile")
    check.set_defaults(run=_check)
    new = verbs.add_parser("new", help="write a first profile to fill in")
    new.add_argument("vendor", type=_slug)
    new.add_argument("model", type=_slug)
    new.add_argument(
        "--kind", choices=("modbus", "ble", "mqtt"), default="modbus", help="how it speaks (default: modbus)"
    )
    new.add_argument("--to", type=Path, metavar="DIR", help=f"default {local}/KIND")
    new.set_defaults(run=_new)
    sunspec = verbs.add_parser("sunspec", help="ask a device for its SunSpec models and write its profile")
    sunspec.add_argument("vendor", type=_slug)
    sunspec.add_argument("model", type=_slug)
    sunspec.add_argument("--to", type=Path, metavar="DIR", help=f"default {local / 'modbus'}")
    sunspec.set_defaults(run=_sunspec)
    schema = verbs.add_parser("schema", help="JSON Schema of a kind of document, for editors")
    kinds = ("modbus", "ble", "gatt", "mqtt", "host", "boards")
    schema.add_argument("kind", nargs="?", default="modbus", choices=kinds)
    schema.set_defaults(run=_schema)
    boards = commands.add_parser("boards", help="gateway computers: ports, power-fail inputs, clocks, lights")
    board_verbs = boards.add_subparsers(required=True, metavar="COMMAND")
    board_list = board_verbs.add_parser("list", help="every board that is known")
    board_list.set_defaults(run=_boards)
    board = board_verbs.add_parser("show", help="what is known of one board")
    board.add_argument("board", metavar="NAME", help="vendor-model")
    board.set_defaults(run=_board)
    capture = commands.add_parser("capture", help="record a live device as a case, its serial number blanked")
    _capture_arguments(capture)
    _device_arguments(sunspec, config)
    _device_arguments(capture, config, broker=True)
    for command in (listing, show, new, sunspec, capture):
        command.add_argument("--profiles", type=Path, default=local, metavar="DIR", help=f"default {local}")
    for command in (listing, show, check, board_list, board):
        command.add_argument("--json", action="store_true", help="answer as JSON")


def _device_arguments(command: argparse.ArgumentParser, config: Path, *, broker: bool = False) -> None:
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument("--host", help="address of a Modbus TCP device")
    if broker:
        where.add_argument("--broker", metavar="ID", help="a [[broker]] of the configuration; record what is published")
    where.add_argument("--bus", metavar="ID", help="a [[bus]] of the configuration; stop the gateway, it is using it")
    command.add_argument("--port", type=int, default=502)
    command.add_argument("--config", type=Path, default=config, metavar="FILE", help=f"default {config}")
    command.add_argument("--unit", type=int, default=1, metavar="N")


def _capture_arguments(capture: argparse.ArgumentParser) -> None:
    capture.add_argument("--profile", required=True, metavar="NAME", help="vendor-model@version")
    capture.add_argument("--device", default="", metavar="NAME", help="of --broker: what stands for {device} in topics")
    capture.add_argument("--topic", default="", metavar="TOPIC", help="of --broker: where the profile names none")
    capture.add_argument("--within", type=float, default=600.0, metavar="S", help="of --broker: wait so long (600)")
    capture.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="how often all is read; of --broker: messages (3)"
    )
    capture.add_argument("--every", type=float, default=1.0, metavar="S", help="seconds between rounds (default: 1)")
    capture.add_argument("--what", default="a device in use", metavar="TEXT", help="which device, for the file")
    capture.add_argument("--out", type=Path, metavar="FILE", help="default: standard output")
    capture.set_defaults(run=_capture)


def _slug(text: str) -> str:
    import re

    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: lower-case letters, digits and - between them")
    return text


def _profiles(args: argparse.Namespace) -> Profiles:
    from firmware_configs.loader import Profiles

    return Profiles(local=args.profiles)


def _list(args: argparse.Namespace) -> int:
    from gateway.library import listing

    found = listing.listed(_profiles(args))
    print(json.dumps(found, ensure_ascii=False) if args.json else listing.list_text(found))
    return 1 if any(one["problem"] for one in found) else 0


def _show(args: argparse.Namespace) -> int:
    from firmware_configs.loader import ProfileError
    from gateway.library import listing

    profiles = _profiles(args)
    named = [one for found in listing.by_kind(profiles).values() for one in found if one.name == args.profile]
    try:
        profile = named[0].profile if named else profiles.modbus(args.profile)
    except ProfileError as error:
        raise Misconfigured(str(error)) from None
    if profile is None:
        raise Misconfigured(named[0].problem)
    facts = listing.shown(profile)
    print(json.dumps(facts, ensure_ascii=False) if args.json else listing.show_text(facts))
    return 0


def _check(args: argparse.Namespace) -> int:
    from gateway.library import checks

    found = [checks.check(path, cases=args.cases) for path in args.file]
    if args.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        for one in found:
            print(checks.text(one), file=sys.stderr if one["problems"] else sys.stdout)
    return 1 if any(one["problems"] for one in found) else 0


def _new(args: argparse.Namespace) -> int:
    from gateway.library import skeleton

    path = skeleton.write(args.to or args.profiles / args.kind, args.vendor, args.model, kind=args.kind)
    print(f"{path} is there to be filled in; then: comboio-gateway profiles check {path}")
    return 0


def _schema(args: argparse.Namespace) -> int:
    from firmware_configs.schemas import KINDS, written

    print(written(KINDS[args.kind]), end="")
    return 0


def _boards(args: argparse.Namespace) -> int:
    import msgspec

    from firmware_configs.boards import Boards
    from gateway.library import boards

    found = list(Boards().all())
    print(msgspec.json.encode(found).decode() if args.json else boards.list_text(found))
    return 0


def _board(args: argparse.Namespace) -> int:
    import msgspec

    from firmware_configs.boards import Boards
    from firmware_configs.loader import ProfileError
    from gateway.library import boards

    try:
        found = Boards().board(args.board)
    except ProfileError as error:
        raise Misconfigured(str(error)) from None
    print(msgspec.json.encode(found).decode() if args.json else boards.show_text(found))
    return 0


def _sunspec(args: argparse.Namespace) -> int:
    from firmware_configs.sunspec import profile_of
    from gateway.library import skeleton, written
    from gateway.sensors.sunspec import discovered

    present = _asked(args, lambda link, _: discovered(link, args.unit))
    if not present:
        raise Misconfigured(f"unit {args.unit} is not a SunSpec device: there is no marker at 40000, 50000 or 0")
    what = f"{args.vendor} {args.model}: SunSpec models {', '.join(str(one.id) for one in present)}"
    try:
        profile = profile_of(present, vendor=args.vendor, model=args.model, description=what)
    except ValueError as error:
        raise Misconfigured(str(error)) from None
    path = (args.to or args.profiles / "modbus") / f"{profile.vendor}-{profile.model}.toml"
    skeleton.put(path, written.profile_text(profile))
    print(f"{path}: {len(profile.quantities())} quantities of {what}")
    return 0


def _capture(args: argparse.Namespace) -> int:
    from firmware_configs.buses import line_of
    from firmware_configs.loader import ProfileError
    from gateway.library import capture

    if args.broker is not None:
        return _put(args, _published(args))
    try:
        profile = _profiles(args).modbus(args.profile)
    except ProfileError as error:
        raise Misconfigured(str(error)) from None

    def record(link: Link, bus: Bus) -> Awaitable[list[capture.Round]]:
        recorder = capture.Recorder(link=link, unit=args.unit, profile=profile, line=line_of(bus))
        return recorder.rounds(args.rounds, every_s=args.every)

    return _put(args, capture.case_text(profile, _asked(args, record, profile.timing), what=args.what))


def _published(args: argparse.Namespace) -> str:
    """What an MQTT device publishes, as a case."""
    from firmware_configs.loader import ProfileError
    from gateway import settings
    from gateway.library import mqtt_capture, mqtt_cases

    profiles = _profiles(args)
    try:
        profile = profiles.mqtt(args.profile)
    except ProfileError as error:
        raise Misconfigured(str(error)) from None
    config = settings.load(args.config, profiles)
    options = next((one for one in config.broker if one.id == args.broker), None)
    if options is None:
        known = ", ".join(one.id for one in config.broker) or "none"
        raise Misconfigured(f"{args.config}: there is no broker {args.broker!r}; it has {known}")
    wanted = mqtt_capture.Wanted(profile=profile, device=args.device, topic=args.topic)
    heard = asyncio.run(mqtt_capture.heard(options, wanted, many=args.rounds, within_s=args.within))
    return mqtt_cases.case_text(profile, heard, device=args.device, what=args.what)


def _put(args: argparse.Namespace, text: str) -> int:
    if args.out is None:
        print(text, end="")
    else:
        args.out.write_text(text, encoding="utf-8")
        print(f"{args.out} is written; compare its values with the device, then: comboio-gateway profiles check")
    return 0


def _asked(args: argparse.Namespace, ask: Callable[[Link, Bus], Awaitable[T]], timing: Timing | None = None) -> T:
    """What `ask` finds on a connection of its own. Raises Retryable when the device is silent."""
    from gateway.sensors.modbus_frames import ReadFailed
    from gateway.sensors.modbus_link import ModbusLink

    bus = _bus(args, _profiles(args))

    async def once() -> T:
        link = ModbusLink(options=bus)
        if timing is not None:
            link.suits(args.unit, timing)
        try:
            return await ask(link, bus)
        except ReadFailed as failure:
            raise Retryable(f"unit {args.unit} did not answer: {failure}") from None
        finally:
            link.close()

    return asyncio.run(once())


def _bus(args: argparse.Namespace, profiles: Profiles) -> Bus:
    from gateway import settings
    from protos.config import TcpBus

    if args.host is not None:
        return TcpBus(id="capture", host=args.host, port=args.port)
    config = settings.load(args.config, profiles)
    for bus in config.bus:
        if bus.id == args.bus:
            return bus
    known = ", ".join(bus.id for bus in config.bus) or "none"
    raise Misconfigured(f"{args.config}: there is no bus {args.bus!r}; it has {known}")
