"""wire.*: bytes a gateway sends upstream per reading, above TLS, at several batch intervals.

Bodies come from the shipped encoder and packer, in full envelopes, over a real gRPC stream through a relay that counts
bytes, each acknowledged before the next: so HTTP/2 frames, message headers and window updates are in the figure. What
arrived is unpacked and decoded, and compared with the source bit for bit. Declared scales and references are learnt
from the first half of the data, and the second half is measured, every whole batch of it; no dictionary is used.

    python -m benchmarks.wire --csv FILE… --batch SECONDS      measures any recording
"""

from __future__ import annotations

import argparse
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.counting import connected
from benchmarks.figures import Figure
from benchmarks.mixed import mixed
from benchmarks.recordings import LEARNT, Cut, Traffic, cuts, folder, read_csv, traffic
from protos.columns import Schema, Value, decode, encode, pack, unpack
from protos.comboio.v1 import batch_pb2 as pb

INTERVALS = {"10s": 10, "60s": 60, "600s": 600, "6h": 21_600}
BOOT = 17
FIRST_SEQ = 123_456  # a gateway some months old


def figures() -> Iterator[Figure]:
    """The mixed gateway at every interval."""
    kind, recordings = mixed(folder())
    source = traffic(recordings)
    for name, seconds in INTERVALS.items():
        yield measure(f"wire.{kind}.{name}", source, batch_s=seconds)


def measure(key: str, source: Traffic, *, batch_s: float) -> Figure:
    """Send every whole batch of the second half. Raises ValueError where the far end sees anything else."""
    first, last = source.span
    middle = first + int((last - first) * LEARNT)
    many = list(cuts(source, batch_ms=round(batch_s * 1000), from_ms=middle, to_ms=last))
    if not many:
        raise ValueError(f"{key}: the measured half holds no whole batch of {batch_s} s")
    with connected() as (uplink, far_end):
        uplink.hello(source.declare)
        before = uplink.bytes_sent()
        for seq, cut in enumerate(many, start=FIRST_SEQ):
            uplink.send(sealed(source, cut, seq=seq))
        sent = uplink.bytes_sent() - before
    for cut, batch in zip(many, far_end.batches, strict=True):
        verify(source.schema, cut, batch)
    readings = sum(cut.count for cut in many)
    return Figure(
        key, sent / readings, "B/reading", f"{len(many)} batches, {readings} readings, all of the second half"
    )


def sealed(source: Traffic, cut: Cut, *, seq: int) -> pb.Batch:
    """As the gateway seals it."""
    body, count = encode(source.schema, boot=BOOT, blocks=cut.blocks)
    codec, packed = pack(body)
    return pb.Batch(
        epoch=source.declare.epoch,
        seq=seq,
        schema=source.declare.schema,
        codec=codec,
        count=count,
        body_len=len(body),
        body=packed,
        crc32=zlib.crc32(packed),
        complete_boot=BOOT,
        complete_mono_ms=cut.end_ms,
        urgent_seq=1000,
    )


def verify(schema: Schema, cut: Cut, batch: pb.Batch) -> None:
    """Every reading of the batch is the one that was recorded, to the bit."""
    if zlib.crc32(batch.body) != batch.crc32 or batch.count != cut.count:
        raise ValueError(f"batch {batch.seq}: damaged")
    decoded = decode(schema, unpack(batch.codec, batch.body, body_len=batch.body_len), count=batch.count)
    for block, sent, values in zip(decoded.blocks, cut.blocks, cut.values, strict=True):
        columns = schema.groups[sent.group].columns
        same = block.group == sent.group and block.times == sent.times
        for column, got, wanted in zip(columns, block.columns, values, strict=True):
            same = same and bits(got) == bits([as_declared(column.type, value) for value in wanted])
        if not same:
            raise ValueError(f"batch {batch.seq}, group {sent.group}: not what was sent")


def as_declared(type_: pb.ValueType.ValueType, value: Value) -> Value:
    return float(value) if type_ == pb.VT_FLOAT64 and isinstance(value, int) else value


def bits(values: Sequence[Value]) -> list[Value | bytes]:
    return [struct.pack("<d", value) if isinstance(value, float) else value for value in values]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.wire", description=__doc__)
    parser.add_argument(
        "--csv", nargs="+", type=Path, metavar="FILE", help="ts_ms first; .gz too; groups of one gateway"
    )
    parser.add_argument("--batch", type=float, default=10.0, metavar="SECONDS")
    asked = parser.parse_args()
    if not asked.csv:
        for figure in figures():
            sys.stdout.write(f"{figure}\n")
        return
    recordings = [recording for path in asked.csv for recording in read_csv(path)]
    name = "+".join(path.name.split(".")[0] for path in asked.csv)
    sys.stdout.write(f"{measure(f'wire.{name}.{asked.batch:g}s', traffic(recordings), batch_s=asked.batch)}\n")


if __name__ == "__main__":
    main()
