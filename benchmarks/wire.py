"""wire.*: bytes a gateway sends upstream per reading, above TLS, at several batch intervals.

Bodies come from the shipped encoder and packer, in full envelopes, over a real gRPC stream through a relay that counts
bytes, each acknowledged before the next: so HTTP/2 frames, message headers and window updates are in the figure. What
arrived is unpacked and decoded, and compared with the source bit for bit. Declared scales and references are learnt
from the first half of the data, and the second half is measured, every whole batch of it.

The gateway has its own dictionary where the control plane would train one on the first half and find, on the newest
third of that, that it pays; the bytes that bring it down are in the figure, spread over a day. `_plain` has none.

    python -m benchmarks.wire --csv FILE… --batch SECONDS      measures any recording
    python -m benchmarks.wire --table                          every recording, beside how others would send it
"""

from __future__ import annotations

import argparse
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import baselines
from benchmarks.counting import connected
from benchmarks.figures import Figure
from benchmarks.mixed import mixed
from benchmarks.recordings import LEARNT, Cut, Traffic, cuts, folder, read_csv, traffic
from control_plane.dictionaries.candidate import CARRIAGE_BYTES, DAY_MS, judge, train
from control_plane.dictionaries.samples import MOST, SAMPLE_BYTES
from control_plane.dictionaries.trainer import ENOUGH
from control_plane.dictionaries.trainer import LEARNT as TRAINED_ON
from protos.columns import Dictionary, Packer, Schema, Value, decode, encode, pack, unpack
from protos.comboio.v1 import batch_pb2 as pb

INTERVALS = {"10s": 10, "60s": 60, "600s": 600, "6h": 21_600}
BOOT = 17
FIRST_SEQ = 123_456  # a gateway some months old


def figures() -> Iterator[Figure]:
    """The mixed gateway at every interval, then each recording by itself."""
    for name, source in sources():
        for interval, seconds in _intervals(source):
            packer = own(source, batch_s=seconds)
            with_it = measure(f"wire.{name}.{interval}", source, batch_s=seconds, packer=packer)
            yield with_it
            key = f"wire.{name}_plain.{interval}"
            yield measure(key, source, batch_s=seconds) if packer else with_it._replace(key=key)


def sources() -> Iterator[tuple[str, Traffic]]:
    """By name: the mixed gateway, and what was recorded."""
    kind, recordings = mixed(folder())
    yield kind, traffic(recordings)
    for path in sorted((folder() or Path("/nonexistent")).glob("*.csv.gz")):
        yield path.name.split(".")[0], traffic(read_csv(path))


def _intervals(source: Traffic) -> Iterator[tuple[str, int]]:
    """Those that hold a reading at least, and of which the measured half holds one."""
    first, last = halves(source)[1]
    period_ms = min(one.period_ms for one in source.recordings)
    for name, seconds in INTERVALS.items():
        if period_ms <= seconds * 1000 <= last - first:
            yield name, seconds


def halves(source: Traffic) -> tuple[tuple[int, int], tuple[int, int]]:
    """(learnt from, measured), in milliseconds."""
    first, last = source.span
    middle = first + int((last - first) * LEARNT)
    return (first, middle), (middle, last)


def own(source: Traffic, *, batch_s: float) -> Packer | None:
    """The dictionary this gateway would be given after the first half; None if it would have none."""
    (first, middle), _ = halves(source)
    every = list(cuts(source, batch_ms=round(batch_s * 1000), from_ms=first, to_ms=middle))
    bodies = [encode(source.schema, boot=BOOT, blocks=cut.blocks)[0] for cut in every[-MOST:]]
    bodies = [body for body in bodies if len(body) <= SAMPLE_BYTES]
    if len(bodies) < ENOUGH:
        return None
    learnt = int(len(bodies) * TRAINED_ON)
    made = train(bodies[:learnt], number=1)
    interval_ms = (middle - first) / len(every)
    if made is None or not judge(made, bodies[learnt:], current=None, interval_ms=interval_ms).worth:
        return None
    return Packer(made)


def measure(key: str, source: Traffic, *, batch_s: float, packer: Packer | None = None) -> Figure:
    """Send every whole batch of the second half. Raises ValueError where the far end sees anything else."""
    many = measured(source, batch_s=batch_s)
    if not many:
        raise ValueError(f"{key}: the measured half holds no whole batch of {batch_s} s")
    with connected() as (uplink, far_end):
        uplink.hello(source.declare)
        before = uplink.bytes_sent()
        for seq, cut in enumerate(many, start=FIRST_SEQ):
            uplink.send(sealed(source, cut, seq=seq, packer=packer))
        sent = uplink.bytes_sent() - before
    dictionary = packer.dictionary if packer else None
    for cut, batch in zip(many, far_end.batches, strict=True):
        verify(source.schema, cut, batch, dictionary)
    readings = sum(cut.count for cut in many)
    remark = f"{len(many)} batches, {readings} readings, all of the second half"
    brought = 0.0
    if dictionary is not None:
        brought = (len(dictionary.data) + CARRIAGE_BYTES) / _readings_a_day(source, readings)
        remark += f"; {brought:.4f} of it brings the dictionary"
    return Figure(key, sent / readings + brought, "B/reading", remark)


def measured(source: Traffic, *, batch_s: float) -> list[Cut]:
    """Every whole batch of the second half."""
    middle, last = halves(source)[1]
    return list(cuts(source, batch_ms=round(batch_s * 1000), from_ms=middle, to_ms=last))


def _readings_a_day(source: Traffic, readings: int) -> float:
    middle, last = halves(source)[1]
    return readings * DAY_MS / (last - middle)


def sealed(source: Traffic, cut: Cut, *, seq: int, packer: Packer | None = None) -> pb.Batch:
    """As the gateway seals it."""
    body, count = encode(source.schema, boot=BOOT, blocks=cut.blocks)
    codec, packed = packer.pack(body) if packer else pack(body)
    return pb.Batch(
        epoch=source.declare.epoch,
        seq=seq,
        schema=source.declare.schema,
        codec=codec,
        dictionary=packer.dictionary.id if packer and codec == pb.CODEC_ZSTD_DICT else 0,
        count=count,
        body_len=len(body),
        body=packed,
        crc32=zlib.crc32(packed),
        complete_boot=BOOT,
        complete_mono_ms=cut.end_ms,
        urgent_seq=1000,
    )


def verify(schema: Schema, cut: Cut, batch: pb.Batch, dictionary: Dictionary | None = None) -> None:
    """Every reading of the batch is the one that was recorded, to the bit."""
    if zlib.crc32(batch.body) != batch.crc32 or batch.count != cut.count:
        raise ValueError(f"batch {batch.seq}: damaged")
    body = unpack(batch.codec, batch.body, body_len=batch.body_len, dictionary=dictionary)
    decoded = decode(schema, body, count=batch.count)
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


def table() -> Iterator[str]:
    """Bytes per reading of the same readings, sent four ways: aligned lines."""
    heads = ("comboio", "without dictionary", "ThingsBoard JSON gzip", "Sparkplug B zstd")
    yield "  ".join((f"{'B/reading':<18}{'every':>6}", *heads))
    for name, source in sources():
        for interval, seconds in _intervals(source):
            many = measured(source, batch_s=seconds)
            readings = sum(cut.count for cut in many)
            packer = own(source, batch_s=seconds)
            plain = measure(name, source, batch_s=seconds).value
            with_it = measure(name, source, batch_s=seconds, packer=packer).value if packer else plain
            others = (make(source, many) / readings for make in (baselines.thingsboard, baselines.sparkplug))
            figures_ = (with_it, plain, *others)
            cells = (f"{figure:>{len(head)}.3f}" for figure, head in zip(figures_, heads, strict=True))
            yield "  ".join((f"{name:<18}{interval:>6}", *cells))


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.wire", description=__doc__)
    parser.add_argument(
        "--csv", nargs="+", type=Path, metavar="FILE", help="ts_ms first; .gz too; groups of one gateway"
    )
    parser.add_argument("--batch", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--table", action="store_true", help="every recording, beside how others would send it")
    asked = parser.parse_args()
    if asked.csv:
        recordings = [recording for path in asked.csv for recording in read_csv(path)]
        source, name = traffic(recordings), "+".join(path.name.split(".")[0] for path in asked.csv)
        key, packer = f"wire.{name}.{asked.batch:g}s", own(source, batch_s=asked.batch)
        lines: Iterator[object] = iter([measure(key, source, batch_s=asked.batch, packer=packer)])
    else:
        lines = table() if asked.table else figures()
    for line in lines:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
