"""What the uplink needs of the sides that decide which configuration runs, and that carry out commands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from protos.comboio.v1 import link_pb2 as wire


class Configuration(Protocol):
    """Nothing here waits or raises, but for `heard` between its lists."""

    def running(self) -> wire.RunningConfig:
        """What runs now, for Hello and Heartbeat."""

    def effective_config(self) -> wire.EffectiveConfig:
        """The same, as a whole document."""

    def offered(self, offer: wire.ConfigOffer) -> None:
        """The control plane wants this; what becomes of it is heard."""

    def heard(self) -> AsyncIterator[list[wire.ConfigStatus]]:
        """One connection's statements: the last one made at once, then each that follows."""


class Commanded(Protocol):
    def commanded(self, command: wire.Command) -> wire.CommandResult | None:
        """The control plane wants this; what becomes of it is an event. Or the answer, if it isn't taken.

        Never waits or raises.
        """


class NoCommands:
    """For a gateway that carries out none."""

    def commanded(self, command: wire.Command) -> wire.CommandResult | None:
        text = f"this gateway does not know the command {command.name!r}"
        return wire.CommandResult(id=command.id, state=wire.COMMAND_UNSUPPORTED, text=text)
