"""How commands are declared: a name, what asks the server, what prints the answer."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from control_plane.console.client import Client

Run = Callable[[Client, Any], Any]
Show = Callable[[Any], None]
Asks = Callable[[argparse.ArgumentParser], None]
Command = Callable[[str, Run, Show, str], argparse.ArgumentParser]


def options(*, inner: bool = False) -> argparse.ArgumentParser:
    """What every command takes; `inner`: where the command around it has the defaults."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS if inner else None)
    nowhere: dict[str, Any] = {} if inner else {"default": False}
    common.add_argument("--server", help="the control plane's URL; else COMBOIO_SERVER, else as logged in")
    common.add_argument("--token", help="API token; else COMBOIO_TOKEN, else as logged in")
    common.add_argument("--ca", help="the fleet's CA (PEM) for https; else COMBOIO_CA, else as logged in")
    common.add_argument("--json", action="store_true", help="the answer as JSON", **nowhere)
    return common


class Commands:
    """The command line's top level."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(self, name: str, run: Run, show: Show, text: str) -> argparse.ArgumentParser:
        added = self._commands.add_parser(name, parents=[options()], help=text, description=text)
        added.set_defaults(run=run, show=show)
        return added

    def family(
        self, name: str, text: str, *, run: Run | None = None, show: Show | None = None, asks: Asks | None = None
    ) -> Command:
        """Declares a command of actions; with `run` and `show` it has `list`, which may be left out."""
        around = self._commands.add_parser(name, parents=[options()] if run else [], help=text, description=text)
        actions = around.add_subparsers(required=run is None, metavar="ACTION")
        if run is not None:
            around.set_defaults(run=run, show=show)

        def action(name: str, run_action: Run, show_action: Show, text: str) -> argparse.ArgumentParser:
            parents = [options(inner=run is not None)]
            added = actions.add_parser(name, parents=parents, help=text, description=text)
            added.set_defaults(run=run_action, show=show_action)
            return added

        if run is not None and show is not None:
            for listing in (around, action("list", run, show, text)):
                if asks is not None:
                    asks(listing)
        return action


def path(*parts: str) -> str:
    """/gateways/gw-1; slashes within an asset's id stay."""
    return "".join("/" + quote(part, safe="/" if parts[0] == "assets" else "") for part in parts)


def edited(client: Client, where: str, changed: dict[str, Any]) -> Any:
    """Change one thing as it is now; somebody else's edit in between is refused, not overwritten."""
    now = client.get(where)
    return client.patch(where, changed, if_match=now["etag"])


def deleted(client: Client, where: str) -> Any:
    client.delete(where, if_match=client.get(where)["etag"])
    return {"deleted": where}


def filters(command: argparse.ArgumentParser, *names: str, limit: bool = True) -> None:
    """Options that are not there unless given: the same may stand before and after an action."""
    for name in names:
        command.add_argument(f"--{name}", default=argparse.SUPPRESS)
    if limit:
        command.add_argument("--limit", type=int, default=argparse.SUPPRESS, help="rows at most; default 100")


def asking(where: str, *names: str) -> Any:
    """Lists `where` with those of the options that were given."""

    def run(client: Client, options: Any) -> Any:
        asked = {name: getattr(options, name, None) for name in names}
        return client.listed(where, limit=getattr(options, "limit", 100), **asked)

    return run
