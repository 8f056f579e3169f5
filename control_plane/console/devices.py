"""comboio command, commands: writing to devices."""

from __future__ import annotations

import secrets
import time
from typing import Any

import msgspec

from control_plane.console.client import Client, Refused
from control_plane.console.commands import Commands, path
from control_plane.console.show import rows, sheet
from protos.commands import typed

COMMANDS = rows(("asked", "sensor", "quantity", "value", "state", "text", "by", "id"), of=lambda one: {
    **one, "value": msgspec.json.encode(one["value"]).decode(), "by": one["by"] or "at the box"
})  # fmt: skip
UNDER_WAY = ("waiting", "sent")
LOOK_EVERY_S = 0.5
PATIENCE_S = 30


def add(commands: Commands) -> None:
    ask = commands.command("command", _command, sheet, "have a gateway write a value to a device, once")
    for name, text in (("gateway", "its id"), ("sensor", "its id on the gateway"), ("quantity", "what to set")):
        ask.add_argument(name, help=text)
    ask.add_argument("value", help="a number, true or false, or a text")
    ask.add_argument("--expect", metavar="VALUE", help="only if the device holds this just before")
    ask.add_argument("--ttl", type=int, default=60, metavar="S", help="not written later than this; default 60")
    ask.add_argument("--key", help="name of this request: the same again asks nothing new; default made up")
    ask.add_argument("--wait", action="store_true", help="until there is a result; anything but done is status 1")
    listed = commands.command("commands", _commands, COMMANDS, "commands to a gateway and what became of them")
    listed.add_argument("gateway")
    listed.add_argument("--sensor")
    listed.add_argument("--limit", type=int, default=20, help="rows at most; default 20")


def _command(client: Client, options: Any) -> Any:
    body = {"sensor": options.sensor, "quantity": options.quantity, "value": typed(options.value)}
    if options.expect is not None:
        body["expect"] = typed(options.expect)
    where = path("gateways", options.gateway, "commands")
    asked = client.post(where, body | {"ttl_s": options.ttl}, key=options.key or secrets.token_hex(16))
    return _waited(client, where, asked, options.ttl) if options.wait else asked


def _waited(client: Client, where: str, asked: Any, ttl_s: int) -> Any:
    """Its result; raises Refused where that is not done."""
    end = time.monotonic() + ttl_s + PATIENCE_S
    now = asked
    while now["state"] in UNDER_WAY and time.monotonic() < end:
        time.sleep(LOOK_EVERY_S)
        now = client.get(f"{where}/{asked['id']}")
    if now["state"] in UNDER_WAY:
        raise Refused(f"{asked['id']}: no result yet, it is {now['state']}. See: comboio commands {asked['gateway']}")
    if now["state"] != "done":
        raise Refused(f"{now['state']}: {now['text']} ({asked['id']})")
    return now


def _commands(client: Client, options: Any) -> Any:
    return client.listed(path("gateways", options.gateway, "commands"), limit=options.limit, sensor=options.sensor)
