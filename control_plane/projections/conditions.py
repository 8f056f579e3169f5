"""What a gateway says of its own alarms and of sensors that fell silent, kept as it came."""

from __future__ import annotations

from control_plane.projections.projection import Envelope
from protos.columns import MAX_TIME_MS
from protos.comboio.v1 import batch_pb2 as pb

KINDS = (pb.EVENT_ALARM_RAISED, pb.EVENT_ALARM_CLEARED, pb.EVENT_SENSOR_SILENT, pb.EVENT_SENSOR_RECOVERED)
MAX_NAME = 120


def condition_row(
    envelope: Envelope, number: int, event: pb.Event, declare: pb.Declare, boot: int, at_ms: int, now_ms: int
) -> dict[str, object]:
    """A row of `condition`. Raises DecodeError or ValueError for a detail that can't be read."""
    said = pb.Condition.FromString(event.detail)
    if said.since_mono_ms >= MAX_TIME_MS:
        raise ValueError("a time is out of range")
    return {
        "id": f"{envelope.id}-{number}",
        "gateway": envelope.gateway,
        "sensor": sensor_of(declare, event.group),
        "quantity": _plain(said.quantity),
        "name": _plain(said.name),
        "kind": event.kind,
        "severity": event.severity,
        "value": said.value,
        "limit": said.limit,
        "below": said.below,
        "epoch": envelope.epoch,
        "boot": boot,
        "since_mono_ms": said.since_mono_ms,
        "said_mono_ms": at_ms,
        "recorded_ms": now_ms,
    }


def sensor_of(declare: pb.Declare, group: int) -> str:
    """The sensor a group belongs to; empty for the gateway itself and for a group never declared."""
    return next((one.sensor for one in declare.groups if one.id == group), "")


def _plain(text: str) -> str:
    if len(text) > MAX_NAME:
        raise ValueError("a name is too long")
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
