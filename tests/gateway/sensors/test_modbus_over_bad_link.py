"""The Modbus driver over a link that breaks: nothing wrong, nothing twice, nothing unaccounted."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.simulators.counting import counting
from gateway.simulators.link import LinkProxy
from protos.comboio.v1 import batch_pb2 as pb
from tests.gateway.sensors.rig import Facts, Polling, device, started, until


@asynccontextmanager
async def linked(log: Path) -> AsyncIterator[LinkProxy]:
    async with started(device(log=log)) as simulated:
        link = LinkProxy(to=("127.0.0.1", simulated.port))
        await link.start()
        try:
            yield link
        finally:
            await link.close()


def balance(facts: Facts, log: Path) -> None:
    """Each row is one answered read, each answered read a row or in a gap between the rows of its neighbours."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    answered = {entry["k"]: entry["mono_ms"] for entry in entries if "fault" not in entry}
    arrived: dict[int, int] = {}
    for row in facts.rows:
        assert isinstance(row.values[0], int)
        k = (row.values[0] - counting(unit=1, address=0, k=0)) % 65536
        assert row.values == tuple(counting(unit=1, address=a, k=k) for a in range(100))
        assert abs(row.mono_ms - answered[k]) <= 400  # of a link of 80 ms, on a busy machine
        assert k > max(arrived, default=0)
        arrived[k] = row.mono_ms
    for k in answered.keys() - arrived.keys():
        since = arrived[max((n for n in arrived if n < k), default=min(arrived))]
        until_ms = arrived.get(min((n for n in arrived if n > k), default=0), 2**62)
        assert any(since <= gap.after_mono_ms and gap.before_mono_ms <= until_ms for gap in facts.losts), k


async def test_cutting_the_link_costs_only_what_the_gap_says(tmp_path: Path) -> None:
    log = tmp_path / "reads.jsonl"
    async with linked(log) as link:
        polling = Polling(port=link.port, timeout_s=0.1)
        _, facts = polling.add(every_s=0.01)
        async with polling:
            for _ in range(3):
                rows = len(facts.rows)
                await until(lambda rows=rows: len(facts.rows) >= rows + 5)  # type: ignore[misc]
                await link.cut()
                failed = polling.sensors[0].counters.failed.total()
                await until(lambda failed=failed: polling.sensors[0].counters.failed.total() >= failed + 3)  # type: ignore[misc]
                await link.restore()
            rows = len(facts.rows)
            await until(lambda: len(facts.rows) >= rows + 5)
    balance(facts, log)
    assert 3 <= sum(lost.reason == pb.GAP_UNREADABLE for lost in facts.losts) <= 4


async def test_answers_held_back_by_a_black_hole_are_never_taken_for_later_ones(tmp_path: Path) -> None:
    log = tmp_path / "reads.jsonl"
    async with linked(log) as link:
        polling = Polling(port=link.port, timeout_s=0.05)
        sensor, facts = polling.add(every_s=0.01)
        async with polling:
            for n in range(1, 4):
                rows = len(facts.rows)
                await until(lambda rows=rows: len(facts.rows) >= rows + 5)  # type: ignore[misc]
                link.black_hole()
                timeouts = sensor.counters.failed["timeout"]
                await until(lambda n=n, t=timeouts: sensor.counters.failed["timeout"] >= t + n)  # type: ignore[misc]
                await link.restore()
            rows = len(facts.rows)
            await until(lambda: len(facts.rows) >= rows + 5)
    balance(facts, log)
    assert facts.losts


async def test_a_connection_that_died_without_a_word_is_replaced(tmp_path: Path) -> None:
    async with linked(tmp_path / "reads.jsonl") as link:
        polling = Polling(port=link.port, timeout_s=0.03)
        _, facts = polling.add(every_s=0.01)
        async with polling:
            await until(lambda: len(facts.rows) >= 3)
            client = polling.bus._own._connection.client  # type: ignore[union-attr]
            link.black_hole()
            await until(lambda: polling.bus._own._connection.client is not client)  # type: ignore[union-attr]
            rows = len(facts.rows)
            await link.restore()
            await until(lambda: len(facts.rows) >= rows + 3)


async def test_a_connection_reset_after_any_number_of_bytes_makes_no_wrong_row(tmp_path: Path) -> None:
    log = tmp_path / "reads.jsonl"
    seeded = random.Random(11)
    async with linked(log) as link:
        polling = Polling(port=link.port, timeout_s=0.1)
        _, facts = polling.add(every_s=0.005)
        async with polling:
            for _ in range(15):
                rows = len(facts.rows)
                await until(lambda rows=rows: len(facts.rows) >= rows + 2)  # type: ignore[misc]
                link.reset_after(seeded.randrange(1, 900))
                await until(lambda: link._reset_in is None)
            rows = len(facts.rows)
            await until(lambda: len(facts.rows) >= rows + 2)
    balance(facts, log)


async def test_a_slow_link_still_brings_whole_rows(tmp_path: Path) -> None:
    log = tmp_path / "reads.jsonl"
    async with linked(log) as link:
        link.slow(bytes_per_s=20_000)
        polling = Polling(port=link.port, timeout_s=1.0)
        _, facts = polling.add(every_s=0.005)
        async with polling:
            await until(lambda: len(facts.rows) >= 20)
    balance(facts, log)
    assert facts.losts == [] or facts.losts[0].reads == 1
