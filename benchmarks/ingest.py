"""ingest.*: a fleet under mutual TLS into the real ingest process, with the real worker projecting beside it.

Every gateway has its own certificate, schema and bytes, made by the shipped encoder from the mixed gateway; acks come
after the commit (SQLite synchronous=FULL, PostgreSQL fsync on). A figure counts readings that were acknowledged *and*
decoded into state and history: its time runs until the worker has reached the end of the journal. Afterwards the
readings counted in state are compared with those acknowledged, gateway by gateway, and the latest values of some with
what was sent. Load comes from `benchmarks.load` in a process of its own; the CPU of every process is named.

As many batches again were sent before, of an hour that is over: what is measured begins when the worker starts to seal
and roll up all of them at once, which is more than a steady fleet ever asks of it. Beside it runs an export, gateway by
gateway, and somebody who asks for the newest batch: `ingest.history_after_ack` is how long the slowest answer took.

    python -m benchmarks.ingest [--gateways N] [--rate BATCHES_PER_S] [--seconds S] [--connected N] [--back N]
        [--only KEY …]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import select

from benchmarks import rows
from benchmarks.beside import Beside, sealed
from benchmarks.figures import Figure
from benchmarks.fleet import Maker, Member
from benchmarks.plane import Plane, running
from control_plane.journal.dictionaries import Issue, add
from control_plane.projections import state as latest
from control_plane.projections.sealer import SETTLE_S
from control_plane.store.tables import state
from protos.columns import Dictionary, Schema, decode, unpack
from protos.comboio.v1 import batch_pb2 as pb

GATEWAYS = 500  # a quick run; `python -m benchmarks.ingest --gateways 2000` is the full one
RATE = 1000.0
SECONDS = 8.0
COMPARED = 20
SLOWEST_S = 300.0
CONNECTED = 5000
BACK = 2000  # the full run is `--back 10000`
NOISY_GATEWAYS, NOISY_RATE = 200, 300.0
SETTLED_S = SETTLE_S + 5.0  # when hours that are over begin to be sealed
KEYS = ("sqlite", "postgresql", "sqlite_10s", "postgresql_10s", "gateways", "back", "noisy", "vs_rows")


@dataclass(slots=True)
class Outcome:
    """One phase, until its last batch was projected."""

    readings_s: float
    batches_s: float
    p99_ms: float
    answered_s: float
    remark: str


def figures(
    *,
    gateways: int = GATEWAYS,
    rate: float = RATE,
    seconds: float = SECONDS,
    connected: int = CONNECTED,
    back: int = BACK,
    only: Sequence[str] = KEYS,
) -> Iterator[Figure]:
    each = 2 + int(rate * seconds / gateways)  # so many batches that none is sent twice while the rate is paced
    with tempfile.TemporaryDirectory(prefix="comboio-fleet-") as folder:
        maker = Maker(Path(folder))
        waits = []
        for database in [key for key in ("sqlite", "postgresql") if key in only]:
            members = maker.make(gateways=gateways, batches=2 * each, batch_s=60, sealable=each)
            (one,) = measure(database, maker, members, [(rate, seconds)])
            waits.append((one.answered_s, database))
            yield Figure(f"ingest.{database}", one.readings_s, "readings/s", one.remark)
        if waits:
            slowest_s, database = max(waits)
            yield Figure("ingest.history_after_ack", slowest_s, "s", f"the slowest answer, {database}")
        for database in [key for key in ("sqlite", "postgresql") if f"{key}_10s" in only]:
            members = maker.make(gateways=gateways, batches=2 * each, batch_s=10, sealable=each)
            paced, free = measure(database, maker, members, [(rate, seconds), (0, seconds)])
            if database == "sqlite":
                yield Figure("ingest.ack_p99", paced.p99_ms, "ms", paced.remark)
                yield Figure("ingest.batches", free.batches_s, "batches/s", "as ingest.sqlite_10s")
            yield Figure(f"ingest.{database}_10s", free.readings_s, "readings/s", free.remark)
        if "gateways" in only:
            yield _connected(maker, connected)
        if "back" in only:
            yield _back(maker, back)
        if "noisy" in only:
            yield _noisy(maker, seconds)
        if "vs_rows" in only:
            yield from rows.figures(maker)


def measure(database: str, maker: Maker, members: list[Member], phases: Sequence[tuple[float, float]]) -> list[Outcome]:
    """Raises RuntimeError where what was decoded is not what was acknowledged."""
    fill = f"each:{len(members[0].batches) // 2}"
    asked = [fill, *(f"{rate}:{seconds}" for rate, seconds in phases)]
    with running(database, pki=maker.authority.folder) as plane:
        with load(plane, members, asked) as generator:
            ready = generator.say()
            generator.go()
            filled = plane.await_projected(SLOWEST_S)
            time.sleep(max(0.0, filled + SETTLED_S - time.time()))
            found = [_phase(plane, generator, members, rate) for rate, _ in phases]
            acked: dict[str, int] = generator.go()
        _compare(plane, members, acked)
    shared = f"{maker.kind}, {len(members)} gateways connected in {ready['connected_s']:.0f} s"
    for one in found:
        one.remark = f"{one.remark}; {shared}"
    return found


def _connected(maker: Maker, count: int) -> Figure:
    """So many streams open at once, each with its own schema and dictionary, and a batch in the journal."""
    members = maker.make(gateways=count, batches=1, batch_s=60, dictionaries=True)
    with running("sqlite", pki=maker.authority.folder) as plane:
        _issue(plane, members)
        before, used = plane.memory("ingest"), plane.cpu()["ingest"]
        with load(plane, members, []) as generator:
            ready = generator.say()
            opened_ms = 1000 * (plane.cpu()["ingest"] - used) / count
            plane.await_projected(SLOWEST_S)
            each_kb = (plane.memory("ingest") - before) / count / 1000
            acked: dict[str, int] = generator.go()
        if plane.counted() != acked:
            raise RuntimeError("what was decoded is not what was acknowledged")
    remark = (
        f"each with its own certificate, schema and dictionary; {each_kb:.0f} KB each, all in "
        f"{ready['connected_s']:.0f} s; ingest's CPU {opened_ms:.1f} ms for the handshake, the session and a batch"
    )
    return Figure("ingest.gateways", count, "gateways", remark)


def _issue(plane: Plane, members: Sequence[Member]) -> None:
    """As if each gateway's dictionary had been trained."""
    with plane.stores.journal.write() as connection:
        for member in members:
            add(connection, member.gateway, Issue(Dictionary(member.dictionary), 1, 0, 0.0, 0))


def _back(maker: Maker, count: int) -> Figure:
    """All connections are cut at once: how long until every gateway has its stream again."""
    members = maker.make(gateways=count, batches=1, batch_s=10)
    with running("sqlite", pki=maker.authority.folder) as plane, load(plane, members, ["back"]) as generator:
        generator.say()
        used = plane.cpu()["ingest"]
        said = generator.go()
        spent_ms = 1000 * (plane.cpu()["ingest"] - used)
    remark = (
        f"{count} gateways cut off at once, {said['shaken']} connections; CPU: ingest {spent_ms / said['shaken']:.1f} "
        f"ms a connection, load {said['shake_ms']:.1f} ms a handshake; cores: load {said['cpu']:.2f}, "
        f"ingest {spent_ms / 1000 / said['back_s']:.2f}"
    )
    return Figure("ingest.back", said["back_s"], "s", remark)


def _noisy(maker: Maker, seconds: float) -> Figure:
    """What one gateway that sends without end does to the others."""
    members = maker.make(gateways=NOISY_GATEWAYS, batches=2 + int(NOISY_RATE * seconds / NOISY_GATEWAYS), batch_s=60)
    phases = [f"{NOISY_RATE}:{seconds}", f"noisy:{NOISY_RATE}:{seconds}"]
    with running("sqlite", pki=maker.authority.folder) as plane, load(plane, members, phases) as generator:
        generator.say()
        quiet = generator.go()
        plane.await_projected(SLOWEST_S)
        loud = generator.go()
    remark = (
        f"acks of {NOISY_GATEWAYS - 1} gateways, {NOISY_RATE:.0f} batches/s in all, while another sends without end "
        f"({loud['noisy'] / loud['took_s']:.0f} batches/s); without it {quiet['p99_ms']:.0f} ms"
    )
    return Figure("ingest.noisy_p99", loud["p99_ms"], "ms", remark)


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
def load(plane: Plane, members: list[Member], phases: Sequence[str]) -> Iterator[Generator]:
    path, ca = plane.folder / "fleet", plane.folder / "pki" / "ca.pem"
    path.write_bytes(msgspec.msgpack.encode(members))
    command = [sys.executable, "-m", "benchmarks.load", "--address", plane.address]
    command += ["--ca", str(ca), "--fleet", str(path)]
    for phase in phases:
        command += ["--phase", phase]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield Generator(process)
        finally:
            process.kill()


def _phase(plane: Plane, generator: Generator, members: list[Member], rate: float) -> Outcome:
    before, chunks = plane.cpu(), sealed(plane.stores)
    beside = Beside(plane.stores, members)
    with beside.running():
        said = generator.go()
        projected = plane.await_projected(SLOWEST_S)
        used = {role: total - before[role] for role, total in plane.cpu().items()}
        made = sealed(plane.stores) - chunks
    elapsed = projected - said["began"]
    cpu_us = ", ".join(f"{role} {seconds / said['batches'] * 1e6:.0f}" for role, seconds in used.items())
    remark = (
        f"{said['batches'] / said['took_s']:.0f} batches/s acknowledged "
        f"({f'{rate:.0f} offered' if rate else 'one in flight each'}), "
        f"ack p50 {said['p50_ms']:.0f} p99 {said['p99_ms']:.0f} ms, "
        f"all projected {elapsed - said['took_s']:.1f} s later; "
        f"in {elapsed:.1f} s {made / 1e6:.1f} M readings sealed, {beside.exported / 1e6:.1f} M exported, "
        f"history answered after {_median(beside.waits_s):.2f} s, at most {max(beside.waits_s, default=0):.2f} s; "
        f"CPU us per batch: {cpu_us}; cores: load {said['cpu']:.2f}, "
        f"export {beside.export_cpu_s / elapsed:.2f}, "
        + ", ".join(f"{role} {seconds / elapsed:.2f}" for role, seconds in used.items())
    )
    slowest_s = max(beside.waits_s, default=0.0)
    return Outcome(said["readings"] / elapsed, said["batches"] / elapsed, said["p99_ms"], slowest_s, remark)


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


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
    parser.add_argument("--connected", type=int, default=CONNECTED)
    parser.add_argument("--back", type=int, default=BACK, help="gateways that are cut off at once")
    parser.add_argument("--only", choices=KEYS, nargs="+", default=KEYS)
    asked = parser.parse_args()
    found = figures(
        gateways=asked.gateways,
        rate=asked.rate,
        seconds=asked.seconds,
        connected=asked.connected,
        back=asked.back,
        only=asked.only,
    )
    for figure in found:
        sys.stdout.write(f"{figure}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
