"""Who may command, and what can be understood of it; nothing is kept or changed here."""

from __future__ import annotations

import re

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protos.comboio.v1 import link_pb2 as wire
from protos.commands import ID, MAX_ARGUMENTS_BYTES, MAX_TTL_S, WRITE, Write, signed_bytes

_ID = re.compile(ID)


def refusal(command: wire.Command, *, gateway: str, config_key: bytes) -> wire.CommandResult | None:
    """What to answer to a command that is not taken; None when it may be."""
    if command.name != WRITE:
        return _no(command, f"this gateway does not know the command {command.name!r}", wire.COMMAND_UNSUPPORTED)
    if not _signed(command, gateway=gateway, config_key=config_key):
        return _no(command, "the command is not signed by the key this box was given at enrolment")
    if not _ID.fullmatch(command.id) or command.ttl_ms > MAX_TTL_S * 1000 or not 0 < command.number < 1 << 63:
        return _no(command, "its id, its number or its time is out of range")
    if len(command.arguments) > MAX_ARGUMENTS_BYTES:
        return _no(command, "its arguments are too long")
    try:
        arguments_of(command)
    except msgspec.MsgspecError as error:
        return _no(command, f"its arguments can't be read: {error}")
    return None


def arguments_of(command: wire.Command) -> Write:
    """Raises msgspec.MsgspecError."""
    return msgspec.json.decode(command.arguments, type=Write)


def _no(
    command: wire.Command, text: str, state: wire.CommandState.ValueType = wire.COMMAND_FAILED
) -> wire.CommandResult:
    return wire.CommandResult(id=command.id, state=state, text=text)


def _signed(command: wire.Command, *, gateway: str, config_key: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(config_key).verify(command.signature, signed_bytes(command, gateway=gateway))
    except (InvalidSignature, ValueError):
        return False
    return True
