"""`comboio-gateway simulate modbus | link | bluez | mqtt`: simulated parts as programs, for demos, tests and benches.

With `--json` each prints one line with the ports it chose, then runs until SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.simulators import modbus_ends

if TYPE_CHECKING:
    from gateway.simulators.bluez_scenario import BluezPlay
    from gateway.simulators.control import Handler
    from gateway.simulators.mqtt_sensor import MqttPlay
    from gateway.simulators.signals import Signal

    Play = BluezPlay | MqttPlay


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands; `main` is given what they parse."""
    kinds = parser.add_subparsers(dest="simulator", required=True)
    modbus = kinds.add_parser("modbus", help="Modbus devices from a profile")
    modbus_ends.add_arguments(modbus)
    modbus.add_argument("--profile", required=True, metavar="NAME", help="vendor-model@version")
    modbus.add_argument("--unit", type=int, action="append", metavar="N", help="unit id, may be repeated (default: 1)")
    modbus.add_argument("--counting", action="store_true", help="values by which every read can be told apart")
    modbus.add_argument(
        "--signal", action="append", default=[], metavar="Q=VALUE|Q=CSV:COLUMN", help="constant or recorded column"
    )
    modbus.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="Q=SHAPE",
        help="VALUE, sine:MEAN,AMPLITUDE,PERIOD_S, ramp:FROM,TO,PERIOD_S or walk:MEAN,AMPLITUDE,PERIOD_S",
    )
    modbus.add_argument("--replay", type=Path, metavar="FILE", help="CSV of ts_ms and a column per quantity")
    modbus.add_argument("--profiles", type=Path, metavar="DIR", help="profiles of one's own, beside those shipped")
    modbus.add_argument("--log", type=Path, metavar="FILE", help="a JSON line per read answered")
    link = kinds.add_parser("link", help="a TCP link that can be cut, slowed, black-holed one way or both")
    link.add_argument("--to", required=True, type=_address, metavar="HOST:PORT")
    bluez = kinds.add_parser("bluez", help="Bluetooth sensors and the BlueZ daemon that hears them, on a private bus")
    mqtt = kinds.add_parser("mqtt", help="sensors that publish to an MQTT broker")
    mqtt.add_argument("--broker", required=True, type=_address, metavar="HOST:PORT")
    gpsd = kinds.add_parser("gpsd", help="gpsd with a receiver that knows this machine's time")
    for kind in (bluez, mqtt):
        kind.add_argument("--scenario", required=True, type=Path, metavar="FILE", help="who sends what, as TOML")
        kind.add_argument("--log", type=Path, metavar="FILE", help="a JSON line per measurement sent")
    for kind in (modbus, link, gpsd):
        kind.add_argument("--listen", type=_address, default=("127.0.0.1", 0), metavar="HOST:PORT")
    for kind in (modbus, link, bluez, mqtt, gpsd):
        kind.add_argument("--control", type=_address, metavar="HOST:PORT", help="one command per line")
        kind.add_argument("--json", action="store_true", help="print the chosen ports as one JSON line")


def main(args: argparse.Namespace) -> int:
    """Run the simulator until told to end. 0, or 2 with a sentence for mistaken arguments."""
    from firmware_configs.loader import ProfileError

    run = {"modbus": _modbus, "link": _link, "bluez": _bluez, "mqtt": _mqtt, "gpsd": _gpsd}[args.simulator]
    try:
        asyncio.run(run(args))
    except (ProfileError, ValueError, OSError) as error:
        print(f"simulate {args.simulator}: {error}", file=sys.stderr)
        return 2
    return 0


async def _modbus(args: argparse.Namespace) -> None:
    from firmware_configs.loader import Profiles
    from gateway.clock import SystemClock
    from gateway.simulators.modbus_device import ModbusDevice
    from gateway.simulators.modbus_unit import SimulatedUnit
    from gateway.simulators.plausible import as_registers, default_signals
    from gateway.simulators.read_log import ReadLog
    from gateway.simulators.wishes import replayed, wished

    profile = Profiles(local=args.profiles).modbus(args.profile)
    chosen = {} if args.replay is None else replayed(args.replay, profile)
    chosen |= wished("--signal", map(_signal, args.signal), profile)
    chosen |= wished("--set", map(_shape, args.set), profile)
    units = {
        unit: SimulatedUnit(
            unit=unit,
            profile=profile,
            signals=None if args.counting else as_registers(profile, default_signals(profile, unit=unit) | chosen),
        )
        for unit in args.unit or [1]
    }
    clock = SystemClock()
    log = ReadLog(path=args.log, clock=clock)
    device = ModbusDevice(units=units, log=log, clock=clock)
    async with AsyncExitStack() as stack:
        stack.callback(log.close)
        where = await modbus_ends.start(device, args)
        stack.push_async_callback(device.close)
        await _serve(args, stack, where, device.command)


async def _link(args: argparse.Namespace) -> None:
    from gateway.simulators.link import LinkProxy, obey

    link = LinkProxy(to=args.to)
    async with AsyncExitStack() as stack:
        port = await link.start(*args.listen)
        stack.push_async_callback(link.close)
        await _serve(args, stack, {"host": args.listen[0], "port": port}, functools.partial(obey, link))


async def _gpsd(args: argparse.Namespace) -> None:
    from gateway.simulators.gpsd import SimulatedGpsd

    gpsd = SimulatedGpsd()
    async with AsyncExitStack() as stack:
        port = await gpsd.start(*args.listen)
        stack.push_async_callback(gpsd.close)
        await _serve(args, stack, {"host": args.listen[0], "port": port}, gpsd.command)


async def _bluez(args: argparse.Namespace) -> None:
    from gateway.clock import SystemClock
    from gateway.simulators import bluez_scenario
    from gateway.simulators.bluez import SimulatedBluez
    from gateway.simulators.bluez_bus import private_bus
    from gateway.simulators.sent_log import SentLog

    scenario = bluez_scenario.load(args.scenario)
    async with AsyncExitStack() as stack:
        log = SentLog(path=args.log, clock=SystemClock())
        stack.callback(log.close)
        bus = await stack.enter_async_context(private_bus())
        bluez = SimulatedBluez(
            bus,
            adapters=scenario.adapters,
            experimental=scenario.experimental,
            most_links=scenario.most_links,
        )
        stack.push_async_callback(bluez.stop)
        play = bluez_scenario.BluezPlay(scenario=scenario, bluez=bluez, log=log)
        await bluez.start()
        await _play(args, stack, {"bus": bus}, play)


async def _mqtt(args: argparse.Namespace) -> None:
    from firmware_configs.loader import Profiles
    from gateway.clock import SystemClock
    from gateway.simulators import mqtt_sensor
    from gateway.simulators.sent_log import SentLog

    scenario = mqtt_sensor.load(args.scenario)
    async with AsyncExitStack() as stack:
        log = SentLog(path=args.log, clock=SystemClock())
        stack.callback(log.close)
        play = mqtt_sensor.MqttPlay(scenario=scenario, broker=args.broker, log=log, profiles=Profiles())
        await _play(args, stack, {}, play)


async def _play(args: argparse.Namespace, stack: AsyncExitStack, said: dict[str, object], play: Play) -> None:
    """Until told to end, or until the play breaks, which is raised."""
    playing = asyncio.create_task(play.run(), name="play")
    serving = asyncio.create_task(_serve(args, stack, said, play.command), name="serve")
    try:
        await asyncio.wait([playing, serving], return_when=asyncio.FIRST_COMPLETED)
        if playing.done():
            playing.result()
        await serving
    finally:
        for task in (playing, serving):
            task.cancel()
        await asyncio.gather(playing, serving, return_exceptions=True)


async def _serve(args: argparse.Namespace, stack: AsyncExitStack, chosen: dict[str, object], handler: Handler) -> None:
    said = {"simulator": args.simulator, **chosen}
    if args.control is not None:
        from gateway.simulators.control import ControlPort

        control = ControlPort(handler=handler)
        said["control_port"] = await control.start(*args.control)
        stack.push_async_callback(control.close)
    told = _told_to_end()  # first: whoever reads the line may end us at once
    print(json.dumps(said) if args.json else "  ".join(f"{k} {v}" for k, v in said.items()), flush=True)
    await told.wait()


def _told_to_end() -> asyncio.Event:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    return told


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host, int(port)


def _shape(text: str) -> tuple[str, Signal]:
    from gateway.simulators.wishes import shape

    return shape(text)


def _signal(text: str) -> tuple[str, Signal]:
    from gateway.simulators.signals import constant, replay

    quantity, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--signal {text!r} is not QUANTITY=VALUE or QUANTITY=CSV:COLUMN")
    path, colon, column = value.rpartition(":")
    return quantity, replay(Path(path), column) if colon else constant(float(value))
