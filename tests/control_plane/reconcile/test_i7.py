"""I7: event time decides."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from control_plane.store.engine import Stores
from protos.comboio.v1 import batch_pb2 as pb
from tests.control_plane.reconcile.plant import WALL0_MS, Gateway, Reading, Road
from tests.effort import tries

END_MS = 400_000
MAX_STEPS = 4
Fact = tuple[str, str, int, str, bool]


class Story(NamedTuple):
    """What two boots of one box measured, and the anchors that place them: (boot, mono_ms, wall_ms)."""

    readings: dict[int, list[Reading]]
    anchors: list[tuple[int, int, int]]


class Shape(NamedTuple):
    """How one telling of a story is cut, shuffled and repeated."""

    cut_every: int
    seed: int
    steps: int
    repeats: int


temperatures = st.sampled_from([-1.0, 1.0, 4.0, 7.6, 7.9, 9.0, 12.0])
stretches = st.lists(st.tuples(st.sampled_from([1, 1, 1, 2, 6]), temperatures), min_size=1, max_size=6)
shapes = st.builds(
    Shape,
    cut_every=st.integers(1, 12),
    seed=st.integers(0, 1 << 16),
    steps=st.integers(1, MAX_STEPS),
    repeats=st.integers(0, 4),
)


@st.composite
def stories(draw: st.DrawFn, *, drifting: bool) -> Story:
    """Runs of equal temperature, 1 s apart, with holes; drifting anchors may even make the boots overlap."""
    readings: dict[int, list[Reading]] = {}
    for boot in (1, 2):
        at, some = 1000, []
        for hole_s, value in draw(stretches):
            at += hole_s * 1000
            for _ in range(draw(st.integers(1, 6))):
                some.append((at, value))
                at += 1000
        readings[boot] = some
    anchors = []
    second = draw(st.integers(-20, 100)) * 1000 if drifting else draw(st.integers(0, 5)) * 1000
    for boot, wall in ((1, WALL0_MS), (2, WALL0_MS + readings[1][-1][0] + second)):
        within = 1 + (readings[boot][-1][0] - 1000) // 9000  # an anchor is made while the boot lasts
        for number in range(min(within, draw(st.integers(1, 3)))):
            drift = draw(st.integers(-400, 400)) if drifting else 0
            anchors.append((boot, 1000 + number * 9000, wall + 1000 + number * 9000 + drift))
    return Story(readings, anchors)


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[Road]:
    folder = tmp_path_factory.mktemp("i7") / "database"
    shutil.copytree(sqlite_template, folder)
    with Stores(f"sqlite:///{folder}") as stores:
        yield Road(stores, destinations=())


names = itertools.count()


def tell(road: Road, story: Story, shapes: Sequence[Shape]) -> list[set[Fact]]:
    """Deliver the story once per shape, each to a gateway of its own; the final facts, without the gateway's name."""
    steps: list[list[tuple[Gateway, list[pb.Batch]]]] = [[] for _ in range(MAX_STEPS)]
    gateways = []
    for shape in shapes:
        gateway = Gateway(f"gw-{next(names):010d}")
        gateways.append(gateway)
        rng = random.Random(shape.seed)
        batches = [batch for lane in (pb.TELEMETRY, pb.URGENT) for batch in _cut(gateway, story, shape, lane)]
        batches += rng.choices(batches, k=shape.repeats)
        rng.shuffle(batches)
        size = -(-len(batches) // shape.steps)
        for number, first in enumerate(range(0, len(batches), size)):
            steps[number].append((gateway, batches[first : first + size]))
    for step in steps:
        for gateway, some in step:
            road.deliver(gateway, some)
        road.settle()
    return [facts(road, gateway) for gateway in gateways]


def _cut(gateway: Gateway, story: Story, shape: Shape, lane: int) -> Iterator[pb.Batch]:
    end = (2, END_MS)
    if lane == pb.URGENT:
        for anchor, following in itertools.pairwise(story.anchors):
            yield gateway.anchors(anchor, complete=_just_before(following, story))
        yield gateway.anchors(story.anchors[-1], complete=end)
        return
    for boot, some in story.readings.items():
        for start in range(0, len(some), shape.cut_every):
            last = boot == 2 and start + shape.cut_every >= len(some)
            complete_ms = END_MS if last else None
            yield gateway.readings(some[start : start + shape.cut_every], boot=boot, complete_ms=complete_ms)


def _just_before(anchor: tuple[int, int, int], story: Story) -> tuple[int, int]:
    """As far as an URGENT lane without news may say that it is complete: a boot's end is its last reading."""
    boot, mono_ms, _ = anchor
    return (boot, mono_ms - 1) if mono_ms > 1000 else (boot - 1, story.readings[boot - 1][-1][0])


def facts(road: Road, gateway: Gateway) -> set[Fact]:
    """All current final ones; by now everything is final but what was taken back before it was."""
    current = road.current(gateway)
    assert [row for row in current if row.finality != "final" and row.change != "retract"] == []
    return {
        (row.type, row.subject.replace(gateway.id, "gw"), row.time_ms, row.data.replace(gateway.id, "gw"), False)
        if row.change != "retract"
        else (row.type, row.subject.replace(gateway.id, "gw"), row.time_ms, "", True)
        for row in current
        if row.finality == "final"
    }


IN_ORDER = Shape(cut_every=1000, seed=0, steps=1, repeats=0)


@pytest.mark.timeout(tries(300))
@settings(
    max_examples=tries(40),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking would take longer than reading the case
    suppress_health_check=[HealthCheck.too_slow],
)
@given(story=stories(drifting=False), some=st.lists(shapes, min_size=2, max_size=4))
def test_i7_any_order_duplication_and_batching_gives_the_same_final_events(
    road: Road, story: Story, some: list[Shape]
) -> None:
    first, *others = tell(road, story, [IN_ORDER, *some])
    assert all(one == first for one in others)
    assert not any(retracted for *_, retracted in first)


@settings(
    max_examples=tries(25),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(story=stories(drifting=True), some=st.lists(shapes, min_size=2, max_size=4))
def test_i7_anchors_that_move_what_was_final_end_at_the_same_facts(road: Road, story: Story, some: list[Shape]) -> None:
    """A final event may be taken back here; what is not taken back is the same."""
    told = [{fact for fact in one if not fact[-1]} for one in tell(road, story, [IN_ORDER, *some])]
    assert all(one == told[0] for one in told)


def test_the_stories_hold_excursions_and_gaps(road: Road) -> None:
    """The properties above are about something."""
    story = Story(
        {1: [(1000 * i, 12.0 if 5 <= i < 15 else 4.0) for i in range(1, 30)], 2: [(1000, 4.0)]},
        [(1, 1000, WALL0_MS), (2, 1000, WALL0_MS + 60_000)],
    )
    (found,) = tell(road, story, [Shape(cut_every=3, seed=3, steps=4, repeats=2)])
    assert sorted(type_.split(".")[3] for type_, *_ in found) == ["closed", "opened"]
    assert all(json.loads(data)["side"] == "high" for _, _, _, data, _ in found)
