"""What people read of a gap record."""

from __future__ import annotations

from protos.comboio.v1 import batch_pb2 as pb


def reason_word(number: int) -> str:
    """`GAP_RESTART` → `restart`; a later program may have written a number this one has no word for."""
    try:
        return pb.GapReason.Name(pb.GapReason.ValueType(number)).removeprefix("GAP_").lower()
    except ValueError:
        return str(number)
