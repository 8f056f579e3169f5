"""What somebody beside the box asks, through the daemon's own socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from gateway.commands.commands import Commands
from gateway.errors import Retryable
from gateway.health.status import Asked
from protos.comboio.v1 import link_pb2 as wire
from protos.commands import Write, outcome_of


def asked_at_box(commands: Commands) -> Callable[[bytes], Awaitable[Asked]]:
    async def write(arguments: bytes) -> Asked:
        try:
            result = await commands.at_box(msgspec.json.decode(arguments, type=Write))
        except msgspec.MsgspecError as error:
            return Asked(state="FAILED", text=f"not understood: {error}")
        except Retryable as error:
            return Asked(state="UNCERTAIN", text=str(error))
        said = outcome_of(result.result)
        state = wire.CommandState.Name(result.state).removeprefix("COMMAND_")
        return Asked(state=state, text=result.text, before=said.before, holds=said.holds)

    return write
