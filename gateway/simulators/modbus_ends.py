"""How `simulate modbus` is reached, from its arguments: TCP, TLS, RTU over TCP, or a serial line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.simulators.modbus_device import ModbusDevice

_CHARACTER_BITS = {"rtu": 11, "ascii": 10}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = ("tcp", "tls", "rtu", "ascii", "rtu_over_tcp")
    parser.add_argument("--kind", choices=kinds, default="tcp", help="as a [[bus]] names it (default: tcp)")
    parser.add_argument("--cert", type=Path, metavar="FILE", help="tls: certificate and, without --key, its key")
    parser.add_argument("--key", type=Path, metavar="FILE", help="tls: key of the certificate")
    parser.add_argument("--serial", type=Path, metavar="PATH", help="rtu, ascii: this port; else a pseudo terminal")
    parser.add_argument("--link", type=Path, metavar="PATH", help="a name that leads to the pseudo terminal")
    parser.add_argument("--baud", type=int, default=0, metavar="N", help="pace of a pseudo terminal (default: none)")
    parser.add_argument("--turnaround-ms", type=float, default=0.0, metavar="MS", help="rtu, ascii: before each answer")
    parser.add_argument("--echo", action="store_true", help="rtu, ascii: as through an adapter that hears itself")


async def start(device: ModbusDevice, args: argparse.Namespace) -> dict[str, object]:
    """Returns where it is: `host` and `port`, or `path`. Raises ValueError for what does not go together."""
    from firmware_configs.budget import LEAST_SILENCE_MS, SILENCE_CHARACTERS  # noqa: PLC0415 - slow for a command line

    if args.kind in _CHARACTER_BITS:
        character_s = _CHARACTER_BITS[args.kind] / args.baud if args.baud else 0.0
        silence_s = max(SILENCE_CHARACTERS * character_s, LEAST_SILENCE_MS / 1000) if args.kind == "rtu" else 0.0
        path = device.start_serial(
            args.serial,
            kind=args.kind,
            link=args.link,
            character_s=character_s,
            silence_s=silence_s if args.baud else 0.0,
            turnaround_s=args.turnaround_ms / 1000,
            echo=args.echo,
        )
        return {"path": path}
    tls = None
    if args.kind == "tls":
        import ssl  # noqa: PLC0415

        if args.cert is None:
            raise ValueError("--kind tls needs --cert")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(args.cert, args.key)
    port = await device.start(*args.listen, kind=args.kind, tls=tls)
    return {"host": args.listen[0], "port": port}
