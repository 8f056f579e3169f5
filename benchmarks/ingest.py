"""ingest.*: a fleet under mutual TLS into the real ingest process, with the real worker projecting beside it.

Every gateway has its own certificate, schema and bytes, made by the shipped encoder from the mixed gateway; acks come
after the commit (SQLite synchronous=FULL, PostgreSQL fsync on). A figure counts readings that were acknowledged *and*
decoded into state and history: its time runs until the worker has reached the end of the journal. Afterwards the
readings counted in state are compared with those acknowledged, gateway by gateway, and the latest values of some with
what was sent. Load comes from `benchmarks.load` in a process of its own; the CPU of every process is named.

The worker seals hours that are over beside it; none is within a run as short as this one.

    python -m benchmarks.ingest [--gateways N] [--rate BATCHES_PER_S] [--seconds S] [--only KEY]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import select

from benchmarks.figures import Figure
from benchmarks.fleet import Maker, Member
from benchmarks.plane import Plane, running
from control_plane.projections import state as latest
from control_plane.store.tables import state
from protos.columns import Schema, decode, unpack
from protos.comboio.v1 import batch_pb2 as pb

GATEWAYS = 500  # a quick run; `python -m benchmarks.ingest --gateways 2000` is the full one
RATE = 1000.0
SECONDS = 8.0
COMPARED = 20
SLOWEST_S = 120.0
KEYS = ("sqlite", "postgresql", "sqlite_10s")


@dataclass(slots=True)
class Outcome:
    """One phase, until its last batch was projected."""

    readings_s: float
    batches_s: float
    p99_ms: float
    remark: str


def figures(
    *, gateways: int = GATEWAYS, rate: float = RATE, seconds: float = SECONDS, only: Sequence[str] = KEYS
) -> Iterator[Figure]:
    each = 2 + int(rate * seconds / gateways)  # so many batches that none is sent twice while the rate is paced
    with tempfile.TemporaryDirectory(prefix="comboio-fleet-") as folder:
        maker = Maker(Path(folder))
        for database in [key for key in ("sqlite", "postgresql") if key in only]:
            members = maker.make(gateways=gateways, batches=each, batch_s=60)
            (one,) = measure(database, maker, members, [(rate, seconds)])
            yield Figure(f"ingest.{database}", one.readings_s, "readings/s", one.remark)
        if "sqlite_10s" in only:
            members = maker.make(gateways=gateways, batches=each, batch_s=10)
            paced, free = measure("sqlite", maker, members, [(rate, seconds), (0, seconds)])
            yield Figure("ingest.ack_p99", paced.p99_ms, "ms", paced.remark)
            yield Figure("ingest.sqlite_10s", free.readings_s, "readings/s", free.remark)
            yield Figure("ingest.batches", free.batches_s, "batches/s", "the same run, 10 s batches")


def measure(database: str, maker: Maker, members: list[Member], phases: Sequence[tuple[float, float]]) -> list[Outcome]:
    """Raises RuntimeError where what was decoded is not what was acknowledged."""
    with running(database, pki=maker.authority.folder) as plane:
        with load(plane, members, phases) as generator:
            ready = generator.say()
            plane.await_projected(SLOWEST_S)
            found = [_phase(plane, generator, rate) for rate, _ in phases]
            acked: dict[str, int] = generator.go()
        _compare(plane, members, acked)
    shared = f"{maker.kind}, {len(members)} gateways connected in {ready['connected_s']:.0f} s, no sealing yet"
    for one in found:
        one.remark = f"{one.remark}; {shared}"
    return found


class Generator:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def say(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator ended; see its words above")
        said: dict[str, Any] = json.loads(line)
        return said

    def go(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.say()


@contextmanager
def load(plane: Plane, members: list[Member], phases: Sequence[tuple[float, float]]) -> Iterator[Generator]:
    path, ca = plane.folder / "fleet", plane.folder / "pki" / "ca.pem"
    path.write_bytes(msgspec.msgpack.encode(members))
    command = [sys.executable, "-m", "benchmarks.load", "--address", plane.address]
    command += ["--ca", str(ca), "--fleet", str(path)]
    for rate, seconds in phases:
        command += ["--phase", f"{rate}:{seconds}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield Generator(process)
        finally:
            process.kill()


def _phase(plane: Plane, generator: Generator, rate: float) -> Outcome:
    before = plane.cpu()
    said = generator.go()
    projected = plane.await_projected(SLOWEST_S)
    used = {role: total - before[role] for role, total in plane.cpu().items()}
    elapsed = projected - said["began"]
    behind = elapsed - said["took_s"]
    cores = ", ".join(f"{role} {seconds / elapsed:.2f}" for role, seconds in used.items())
    offered = f"{rate:.0f} offered" if rate else "one in flight each"
    remark = (
        f"{said['batches'] / said['took_s']:.0f} batches/s acknowledged ({offered}), "
        f"ack p50 {said['p50_ms']:.0f} p99 {said['p99_ms']:.0f} ms, all projected {behind:.1f} s later; "
        f"cores: load {said['cpu']:.2f}, {cores}"
    )
    return Outcome(said["readings"] / elapsed, said["batches"] / elapsed, said["p99_ms"], remark)


def _compare(plane: Plane, members: Sequence[Member], acked: dict[str, int]) -> None:
    if plane.counted() != acked:
        raise RuntimeError("what was decoded is not what was acknowledged")
    for member in members[:COMPARED]:
        with plane.stores.telemetry.read() as connection:
            body = connection.execute(select(state.c.body).where(state.c.gateway == member.gateway)).scalar_one()
        have = {int(r["series"]): (int(r["mono_ms"]), float(r["value"])) for r in latest.unpack(body)}
        if have != _latest(member, acked[member.gateway]):
            raise RuntimeError(f"{member.gateway}: the latest values are not those that were sent")


def _latest(member: Member, readings: int) -> dict[int, tuple[int, float]]:
    """As the one-by-one decoder says, over the batches that were acknowledged; what is sent twice is no later."""
    schema = Schema.from_declare(pb.Declare.FromString(member.declare))
    found: dict[int, tuple[int, float]] = {}
    for one in member.batches:
        if readings <= 0:
            break
        readings -= one.count
        sent = pb.Batch.FromString(one.envelope)
        decoded = decode(schema, unpack(sent.codec, sent.body, body_len=sent.body_len), count=sent.count)
        for block in decoded.blocks:
            last = max(range(len(block.times)), key=lambda row: (block.times[row], row))
            for spec, values in zip(schema.groups[block.group].columns, block.columns, strict=True):
                found[spec.id] = (block.times[last], float(values[last]))  # type: ignore[arg-type]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.ingest", description=__doc__)
    parser.add_argument("--gateways", type=int, default=GATEWAYS)
    parser.add_argument("--rate", type=float, default=RATE, help="batches offered a second, in all")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--only", choices=KEYS, nargs="+", default=KEYS)
    asked = parser.parse_args()
    for figure in figures(gateways=asked.gateways, rate=asked.rate, seconds=asked.seconds, only=asked.only):
        sys.stdout.write(f"{figure}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
