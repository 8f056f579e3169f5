"""comboio: the fleet's admin command line, over the REST API only.

Exit status: 0 done, 1 refused by the server, 2 wrong usage, 3 server not reachable, 4 there is no such thing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import msgspec

from control_plane.console import access, config, data, devices, registry
from control_plane.console.client import Client, Missing, Refused, Unreachable
from control_plane.console.commands import Commands
from control_plane.console.profile import UsageError, chosen

REFUSED, USAGE, UNREACHABLE, MISSING = 1, 2, 3, 4


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        anonymous = getattr(options, "anonymous", False)
        profile = chosen(server=options.server, token=options.token, ca=options.ca, anonymous=anonymous)
        answer = options.run(Client(profile), options)
    except UsageError as error:
        return _said(str(error), USAGE)
    except Missing as error:
        return _said(str(error), MISSING)
    except Refused as error:
        return _said(str(error), REFUSED)
    except Unreachable as error:
        return _said(str(error), UNREACHABLE)
    if options.json and answer is not None:  # None: it has printed what there is itself
        print(msgspec.json.format(msgspec.json.encode(answer)).decode())
    else:
        options.show(answer)
    return 0


def _said(text: str, status: int) -> int:
    print(f"comboio: {text}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="comboio", description="Looks after a Comboio fleet.")
    commands = Commands(parser)
    access.add(commands)
    registry.add(commands)
    data.add(commands)
    devices.add(commands)
    config.add(commands.family("config", "configuration of gateways"))
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
