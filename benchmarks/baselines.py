"""The same readings as two usual formats carry them, batch by batch, with what MQTT puts around a message.

* ThingsBoard's gateway API (topic v1/gateway/telemetry): a JSON document of rows per device, gzip level 9.
* Sparkplug B 3.0: one NDATA of all readings, each with its alias and its own timestamp, no datatype (it was in the
  birth certificate), zstd as our own packer does it. One message for all devices, which flatters it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from functools import cache

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from benchmarks.recordings import Cut, Traffic
from protos.columns import Value, pack

WALL_MS = 1_700_000_000_000
"""Of the boot that the recordings' monotonic times count from."""
TELEMETRY = "v1/gateway/telemetry"
NDATA = "spBv1.0/fleet/NDATA/gw-aaaaaaaaaa"
_Field = descriptor_pb2.FieldDescriptorProto
_FIELDS = {
    "Metric": (
        ("alias", 2, _Field.TYPE_UINT64),
        ("timestamp", 3, _Field.TYPE_UINT64),
        ("int_value", 10, _Field.TYPE_UINT32),
        ("long_value", 11, _Field.TYPE_UINT64),
        ("double_value", 13, _Field.TYPE_DOUBLE),
    ),
    "Payload": (
        ("timestamp", 1, _Field.TYPE_UINT64),
        ("metrics", 2, _Field.TYPE_MESSAGE),
        ("seq", 3, _Field.TYPE_UINT64),
    ),
}


def thingsboard(source: Traffic, many: Sequence[Cut]) -> int:
    """Bytes of all batches."""
    return sum(published(TELEMETRY, gzip.compress(telemetry_json(source, cut), 9, mtime=0)) for cut in many)


def sparkplug(source: Traffic, many: Sequence[Cut]) -> int:
    """Bytes of all batches."""
    return sum(published(NDATA, pack(ndata(source, cut, seq % 256))[1]) for seq, cut in enumerate(many))


def telemetry_json(source: Traffic, cut: Cut) -> bytes:
    """{"device": [{"ts": …, "values": {"name": value, …}}, …], …}."""
    document: dict[str, list[dict[str, object]]] = {}
    for block, columns in zip(cut.blocks, cut.values, strict=True):
        recording = source.recordings[block.group - 1]
        names = [column.name for column in recording.columns]
        rows = zip(block.times, zip(*columns, strict=True), strict=True)
        document[recording.name] = [
            {"ts": WALL_MS + at_ms, "values": dict(zip(names, values, strict=True))} for at_ms, values in rows
        ]
    return json.dumps(document, separators=(",", ":")).encode()


def ndata(source: Traffic, cut: Cut, seq: int) -> bytes:
    """A Sparkplug B payload, rows in the order of time."""
    metric, payload = _messages()
    first = {number: sum(len(one.columns) for one in source.recordings[: number - 1]) for number in _groups(cut)}
    rows = [
        (WALL_MS + at_ms, first[block.group], values)
        for block, columns in zip(cut.blocks, cut.values, strict=True)
        for at_ms, values in zip(block.times, zip(*columns, strict=True), strict=True)
    ]
    rows.sort(key=lambda row: row[0])
    made = payload(timestamp=WALL_MS + cut.end_ms, seq=seq)
    made.metrics.extend(  # type: ignore[attr-defined]
        metric(alias=alias, timestamp=at_ms, **_value(value))
        for at_ms, start, values in rows
        for alias, value in enumerate(values, start=start)
    )
    return made.SerializeToString()


def _groups(cut: Cut) -> set[int]:
    return {block.group for block in cut.blocks}


def _value(value: Value) -> dict[str, int | float]:
    """Integers are the unsigned twins of their two's complement, as Sparkplug has it."""
    if isinstance(value, float):
        return {"double_value": value}
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no number")
    if -(1 << 31) <= value < 1 << 31:
        return {"int_value": value & 0xFFFF_FFFF}
    return {"long_value": value & 0xFFFF_FFFF_FFFF_FFFF}


@cache
def _messages() -> tuple[type[Message], type[Message]]:
    """Metric and Payload with the field numbers of the specification, as far as they are used here."""
    file = descriptor_pb2.FileDescriptorProto(name="sparkplug_b_part.proto", package="sparkplug_part", syntax="proto2")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            many = kind == _Field.TYPE_MESSAGE
            label = _Field.LABEL_REPEATED if many else _Field.LABEL_OPTIONAL
            message.field.add(
                name=field, number=number, type=kind, label=label, type_name=".sparkplug_part.Metric" if many else None
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    metric, payload = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"sparkplug_part.{name}")) for name in _FIELDS
    )
    return metric, payload


def published(topic: str, payload: bytes) -> int:
    """Bytes of an MQTT 3.1.1 PUBLISH at QoS 1."""
    rest = 2 + len(topic) + 2 + len(payload)
    return 1 + max(1, (rest.bit_length() + 6) // 7) + rest
