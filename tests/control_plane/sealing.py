"""Batches, declarations and Hellos as a gateway makes them, small enough to read."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import zstandard
from google.protobuf.message import Message

from protos.columns import Block, Dictionary, Schema, encode
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire

GATEWAY = "gw-aaaaaaaaaa"
OTHER = "gw-bbbbbbbbbb"
EPOCH = 0xFEDCBA98
RUN = b"r" * 16


def declare(schema: int = 1, *, epoch: int = EPOCH, sensor: str = "probe", unit: str = "Cel") -> pb.Declare:
    """Two groups: a probe of one temperature in tenths at 1 Hz, and a door."""
    return pb.Declare(
        epoch=epoch,
        schema=schema,
        groups=[
            pb.Group(
                id=1,
                sensor=sensor,
                period_ms=1000,
                series=[pb.Series(id=1, name="temperature", unit=unit, exp=1, attrs={"role": "cargo_temperature"})],
            ),
            pb.Group(id=2, sensor="door", period_ms=1000, series=[pb.Series(id=2, name="open", type=pb.VT_BOOL)]),
        ],
    )


def batch(
    seq: int,
    *tenths: int,
    at_ms: int = 1000,
    step_ms: int = 1000,
    lane: pb.Lane.ValueType = pb.TELEMETRY,
    boot: int = 1,
    schema: int = 1,
    epoch: int = EPOCH,
    group: int = 1,
    complete: tuple[int, int] | None = None,
    events: Sequence[tuple[int, pb.Event]] = (),
) -> pb.Batch:
    """Readings at at_ms, at_ms + step_ms, …; complete up to the last of them."""
    times = [at_ms + step_ms * row for row in range(len(tenths))]
    blocks = [Block(group, times, [list(tenths)])] if tenths else []
    body, count = encode(Schema.from_declare(declare()), boot=boot, blocks=blocks, events=events)
    complete_boot, complete_ms = complete or (boot, times[-1] if times else 0)
    return pb.Batch(
        epoch=epoch,
        lane=lane,
        seq=seq,
        schema=schema,
        count=count,
        body_len=len(body),
        body=body,
        crc32=zlib.crc32(body),
        complete_boot=complete_boot,
        complete_mono_ms=complete_ms,
    )


def packed(made: pb.Batch, dictionary: Dictionary) -> pb.Batch:
    """The same batch, carried with a dictionary, whether that is smaller or not."""
    context = zstandard.ZstdCompressor(dict_data=dictionary.compiled, write_content_size=False)
    made.body = context.compress(made.body)
    made.codec, made.dictionary, made.crc32 = pb.CODEC_ZSTD_DICT, dictionary.id, zlib.crc32(made.body)
    return made


def urgent(seq: int, *details: Message, boot: int = 1, at_ms: int = 0, complete: tuple[int, int] = (1, 0)) -> pb.Batch:
    """Gap records and anchors."""
    kinds = {pb.Gap: pb.EVENT_GAP, pb.Anchor: pb.EVENT_ANCHOR}
    events = [(at_ms, pb.Event(kind=kinds[type(one)], detail=one.SerializeToString())) for one in details]
    return batch(seq, lane=pb.URGENT, boot=boot, events=events, complete=complete)


def hello(
    *,
    epoch: int = EPOCH,
    opens: int = 1,
    run_id: bytes = RUN,
    telemetry: int = 1,
    urgent: int = 1,
    held: Iterable[tuple[int, int]] = (),
    urgent_held: Iterable[tuple[int, int]] = (),
    dictionaries: Iterable[int] = (),
) -> wire.Hello:
    """`telemetry` and `urgent` are the lanes' next seqs."""
    return wire.Hello(
        protocol=1,
        epoch=epoch,
        opens=opens,
        run_id=run_id,
        boot=1,
        boot_id=b"b" * 16,
        dictionaries=dictionaries,
        codecs=[pb.CODEC_NONE, pb.CODEC_ZSTD, pb.CODEC_ZSTD_DICT],
        lanes=[
            wire.LaneState(lane=pb.TELEMETRY, next_seq=telemetry, held=ranges(held)),
            wire.LaneState(lane=pb.URGENT, next_seq=urgent, held=ranges(urgent_held)),
        ],
    )


def ranges(pairs: Iterable[tuple[int, int]]) -> list[pb.Range]:
    return [pb.Range(first=first, last=last) for first, last in pairs]
