"""What a gateway says became of a command: the first word on each counts, whatever comes again."""

from __future__ import annotations

from protos.comboio.v1 import link_pb2 as wire
from protos.commands import encoded, outcome_of

MAX_ID, MAX_TEXT = 64, 2000
ENDS = (
    wire.COMMAND_DONE,
    wire.COMMAND_FAILED,
    wire.COMMAND_EXPIRED,
    wire.COMMAND_UNSUPPORTED,
    wire.COMMAND_UNCERTAIN,
)


def result_row(gateway: str, detail: bytes, now_ms: int) -> dict[str, object]:
    """A row of `command_result`. Raises DecodeError or ValueError for a detail that can't be read."""
    said = wire.CommandResult.FromString(detail)
    if not 0 < len(said.id) <= MAX_ID or "\0" in said.id or said.state not in ENDS:
        raise ValueError("a result is out of range")
    return {
        "gateway": gateway,
        "command": said.id,
        "state": said.state,
        "text": said.text[:MAX_TEXT].replace("\0", "\N{REPLACEMENT CHARACTER}"),
        "result": encoded(outcome_of(said.result)).decode().replace("\\u0000", "\N{REPLACEMENT CHARACTER}"),
        "recorded_ms": now_ms,
    }
