"""What can be known of a rendered document without the gateway's program: the whole of it, all mistakes at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from firmware_configs import document
from firmware_configs.buses import overloads
from firmware_configs.loader import Profiles
from protos.config import GatewayConfig, canonical
from protos.strict import DocumentError, convert, pointed


class Mistake(NamedTuple):
    pointer: str
    message: str


class Checked(NamedTuple):
    """`body` is the canonical document; meaningless when there are mistakes."""

    body: bytes
    mistakes: tuple[Mistake, ...]


def check(rendered: Mapping[str, Any], profiles: Profiles) -> Checked:
    try:
        config = convert(rendered, GatewayConfig)
    except DocumentError as error:
        return Checked(b"", tuple(Mistake(*pointed(problem)) for problem in error.problems))
    mistakes = [Mistake(*pointed(problem)) for problem in _disagreements(config, profiles)]
    return Checked(canonical(config), tuple(mistakes))


def _disagreements(config: GatewayConfig, profiles: Profiles) -> Iterator[str]:
    if config.management != "managed":
        yield 'management: is decided on the gateway; what is pushed is always "managed"'
    yield from document.disagreements(config, profiles)
    yield from overloads(config, profiles)
