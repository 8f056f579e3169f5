"""What a command says and what its signature covers, the same bytes on both sides."""

from __future__ import annotations

import hashlib
import struct
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from protos.comboio.v1 import link_pb2 as wire

DOMAIN = b"comboio.command.v1"
WRITE = "write"
MAX_TTL_S = 86_400
MAX_ARGUMENTS_BYTES = 4096
ID = r"^[a-z]{3}-[0-9a-f]{8,32}$"

Value = bool | int | float | Annotated[str, Meta(max_length=200)]
"""In the quantity's unit, a switch's true or false, a text, a label's word."""


class Write(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Arguments of `write`. `expect`: only if the device holds that just before."""

    sensor: Annotated[str, Meta(min_length=1, max_length=63)]
    quantity: Annotated[str, Meta(min_length=1, max_length=120)]
    value: Value
    expect: Value | None = None


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a result says beside its words: what was asked, and what the device held before and holds since.

    None: it was not read, or says "not available".
    """

    sensor: str = ""
    quantity: str = ""
    value: Value | None = None
    before: Value | None = None
    holds: Value | None = None
    at_box: bool = False
    """Asked by somebody beside the box."""


def signed_bytes(command: wire.Command, *, gateway: str) -> bytes:
    """The message to sign (Ed25519): a hash, of this purpose only, over every field with its length.

    It binds the command to one gateway and one place in the order of its commands, so that it can't be replayed to
    another box, nor to this one once it has forgotten it.
    """
    parts = (
        gateway.encode(),
        command.id.encode(),
        command.name.encode(),
        command.arguments,
        struct.pack(">QIQ", command.number, command.ttl_ms, command.expected_generation),
    )
    message = b"".join(struct.pack(">I", len(part)) + part for part in (DOMAIN, *parts))
    return hashlib.sha256(message).digest()


def typed(text: str) -> Value:
    """What a person wrote on a command line: a number, true or false, else a text; in double quotes always a text."""
    try:
        value = msgspec.json.decode(text.encode())
    except msgspec.DecodeError:
        return text
    return value if isinstance(value, bool | int | float | str) else text


def encoded(what: Write | Outcome) -> bytes:
    return msgspec.json.encode(what)


def outcome_of(result: bytes) -> Outcome:
    """Of a result as it came; empty where it can't be read."""
    try:
        return msgspec.json.decode(result, type=Outcome) if result else Outcome()
    except msgspec.MsgspecError:
        return Outcome()
