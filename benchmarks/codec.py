"""codec.*: readings per second of CPU, on 60 s and 10 s batches of the mixed gateway, without compression."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import mixed as gateway
from benchmarks.figures import Figure, cpu_seconds
from benchmarks.recordings import Traffic, cuts, folder, traffic
from control_plane.projections.decode import Table, decode_many
from protos.columns import decode, encode, pack

BATCHES = 100


def figures() -> Iterator[Figure]:
    """The first 100 batches of the measured half."""
    kind, recordings = gateway.mixed(folder())
    source = traffic(recordings)
    for name, batch_s in (("", 60), ("_10s", 10)):
        yield from _speeds(name, kind, source, batch_s)


def _speeds(name: str, kind: str, source: Traffic, batch_s: int) -> Iterator[Figure]:
    first, last = source.span
    middle = (first + last) // 2
    end = min(last, middle + BATCHES * batch_s * 1000)
    many = list(cuts(source, batch_ms=batch_s * 1000, from_ms=middle, to_ms=end))
    encoded = [encode(source.schema, boot=1, blocks=cut.blocks) for cut in many]
    bodies, counts = [body for body, _ in encoded], [count for _, count in encoded]
    table, readings = Table(source.schema), sum(counts)
    work = {
        "encode": lambda: [encode(source.schema, boot=1, blocks=cut.blocks) for cut in many],
        "pack": lambda: [pack(body) for body in bodies],
        "decode": lambda: [decode(source.schema, body, count=count) for body, count in encoded],
        "bulk_decode": lambda: decode_many(table, bodies, counts),
    }
    for what, run in work.items():
        yield Figure(
            f"codec.{what}{name}", readings / cpu_seconds(run), "readings/s", f"{kind}, {batch_s} s, {BATCHES} batches"
        )
