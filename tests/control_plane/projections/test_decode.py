from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane.projections.decode import Bulk, Table, decode_all, decode_many, exact, joined
from protos.columns import Block, BodyError, Decoded, Schema, decode, encode
from protos.comboio.v1 import batch_pb2 as pb
from tests.effort import tries
from tests.protos.bodies import NO_VALUE, TIMES, blocks, column_bits, declares
from tests.protos.test_damage import EDITS, mutate

SLOW = settings(
    max_examples=tries(100), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@dataclass
class Fleet:
    schema: Schema
    table: Table
    bodies: list[bytes]
    counts: list[int]


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    declare = draw(declares())
    schema = Schema.from_declare(declare)
    bodies, counts = [], []
    for boot in range(draw(st.integers(0, 5))):
        events = [(at, pb.Event(kind=9, detail=b"x")) for at in draw(st.lists(TIMES, max_size=2))]
        many = draw(st.lists(blocks(declare), max_size=3))
        data, count = encode(schema, boot=boot, blocks=many, events=events)
        bodies.append(data)
        counts.append(count)
    return Fleet(schema, Table(schema), bodies, counts)


def same(bulk: Bulk, decoded: list[Decoded], schemas: list[Schema]) -> None:
    """Everything that the one-by-one decoder says, bit for bit."""
    assert bulk.boot.tolist() == [one.boot for one in decoded]
    assert bulk.base.tolist() == [one.base_mono_ms for one in decoded]
    assert bulk.events == [(batch, at, event) for batch, one in enumerate(decoded) for at, event in one.events]
    flat = [(batch, block) for batch, one in enumerate(decoded) for block in one.blocks]
    assert bulk.batch.tolist() == [batch for batch, _ in flat]
    assert bulk.group.tolist() == [block.group for _, block in flat]
    assert bulk.times.tolist() == [at for _, block in flat for at in block.times]
    assert bulk.row0.tolist() == np.cumsum([0, *[len(block.times) for _, block in flat]])[:-1].tolist()
    columns = [(number, at) for number, (_, block) in enumerate(flat) for at in range(len(block.columns))]
    assert bulk.col_occ.tolist() == [number for number, _ in columns]
    for occurrence, (number, at) in enumerate(columns):
        block = flat[number][1]
        spec = bulk.table.series[bulk.series[occurrence]]
        assert spec is schemas[bulk.batch[number]].groups[block.group].columns[at]
        values = block.columns[at]
        assert column_bits(exact(bulk, occurrence)) == column_bits(values)
        start = int(bulk.val0[occurrence])
        codes = (block.quality[at] if block.quality else None) or [0] * len(values)
        if bulk.quality is None:
            assert not any(codes)
        else:
            assert bulk.quality[start : start + len(values)].tolist() == codes
        reals = bulk.values[start : start + len(values)].tolist()
        wanted = [float("nan") if value is None or isinstance(value, str) else float(value) for value in values]
        assert np.array_equal(reals, wanted, equal_nan=True)
        last = max(range(len(values)), key=lambda row: (block.times[row], row))
        assert bulk.last_time[occurrence] == block.times[last]
        assert bulk.last_quality[occurrence] == codes[last]
        assert np.array_equal(bulk.last_value[occurrence], wanted[last], equal_nan=True)
        assert (values[last] is None) == (codes[last] in NO_VALUE)
    if bulk.device_ms is not None:
        stamps = [ms for _, block in flat for ms in block.device_ms or [0] * len(block.times)]
        assert bulk.device_ms.tolist() == stamps
    else:
        assert all(block.device_ms is None for _, block in flat)


@SLOW
@given(fleets())
def test_many_bodies_at_once_give_what_they_give_one_by_one(fleet: Fleet) -> None:
    decoded = [decode(fleet.schema, data, count=n) for data, n in zip(fleet.bodies, fleet.counts, strict=True)]
    same(decode_many(fleet.table, fleet.bodies, fleet.counts), decoded, [fleet.schema] * len(decoded))


@settings(SLOW, max_examples=tries(50))
@given(st.lists(fleets(), min_size=1, max_size=4), st.randoms())
def test_bodies_of_many_schemas_at_once_give_what_they_give_one_by_one(many: list[Fleet], random: Random) -> None:
    tagged = [
        (part, body, count)
        for part, fleet in enumerate(many)
        for body, count in zip(fleet.bodies, fleet.counts, strict=True)
    ]
    random.shuffle(tagged)
    parts = [part for part, _, _ in tagged]
    bodies = [body for _, body, _ in tagged]
    counts = [count for _, _, count in tagged]
    schemas = [many[part].schema for part in parts]
    decoded = [decode(schema, body, count=n) for schema, body, n in zip(schemas, bodies, counts, strict=True)]
    same(decode_all(joined([fleet.table for fleet in many]), bodies, counts, parts), decoded, schemas)


def test_a_group_of_another_part_is_not_ones_own() -> None:
    one, other = (
        Schema.from_declare(pb.Declare(groups=[pb.Group(id=number, series=[pb.Series(id=1)])])) for number in (1, 2)
    )
    body, count = encode(other, boot=1, blocks=[Block(2, [5], [[1]])])
    tables = joined([Table(one), Table(other)])
    assert decode_all(tables, [body], [count], [1]).values.tolist() == [1.0]
    with pytest.raises(BodyError, match="not declared"):
        decode_all(tables, [body], [count], [0])


@settings(SLOW, max_examples=tries(200))
@given(fleets(), EDITS, st.integers(0, 4))
def test_both_decoders_agree_on_what_is_damaged(fleet: Fleet, edits: list[tuple[int, int, int]], which: int) -> None:
    if fleet.bodies:
        which %= len(fleet.bodies)
        fleet.bodies[which] = mutate(fleet.bodies[which], edits)
    try:
        decoded = [decode(fleet.schema, data, count=n) for data, n in zip(fleet.bodies, fleet.counts, strict=True)]
    except BodyError:
        with pytest.raises(BodyError) as caught:
            decode_many(fleet.table, fleet.bodies, fleet.counts)
        assert caught.value.index == which
    else:
        same(decode_many(fleet.table, fleet.bodies, fleet.counts), decoded, [fleet.schema] * len(decoded))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=3))
def test_the_first_bad_body_is_named(bad: list[int]) -> None:
    schema = Schema.from_declare(pb.Declare(groups=[pb.Group(id=1, series=[pb.Series(id=1, exp=1)])]))
    bodies = [encode(schema, boot=1, blocks=[Block(1, [5, 6], [[1, 2]])])[0]] * 7
    counts = [3 if at in bad else 2 for at in range(7)]
    with pytest.raises(BodyError) as caught:
        decode_many(Table(schema), bodies, counts)
    assert caught.value.index == min(bad)


def test_nothing_decodes_to_nothing() -> None:
    bulk = decode_many(Table.from_declare(pb.Declare()), [], [])
    assert (bulk.values.size, bulk.events) == (0, [])
    assert decode_many(Table.from_declare(pb.Declare()), [b"", b"\x08\x03"], [0, 0]).boot.tolist() == [0, 3]


def crafted(v: bytes, t: bytes = b"\x00", **more: object) -> bytes:
    """One row of one column, with these packed bytes."""
    head = pb.Body(group=[1], rows=[1], constant=b"\x01", **more).SerializeToString()  # type: ignore[arg-type]
    return head + b"\x2a" + bytes((len(t),)) + t + b"\x32" + bytes((len(v),)) + v


@pytest.mark.parametrize(
    ("body", "count", "wanted"),
    [
        (crafted(b"\x02"), 1, [-(2**63)]),  # the declared reference and one more: wraps
        (crafted(b"\xff" * 9 + b"\x01"), 1, [-1]),  # the longest delta, -2^63
        (crafted(b"\x80\x80\x00"), 1, [2**63 - 1]),  # zero, written long
        (crafted(b"\x82" + b"\x80" * 8 + b"\x02"), 1, [-(2**63)]),  # bits above the 64th are dropped
        (crafted(b"\xff" * 10 + b"\x00"), 1, None),
        (crafted(b"\x80"), 1, None),
        (crafted(b"\x00", t=b"\x01"), 1, None),  # one millisecond before the clock began
        (crafted(b"\x00", t=b"\xfe" + b"\xff" * 8 + b"\x01"), 1, None),
        (crafted(b"\x00", q_pos=[0], q_len=[1], q_code=[2**8 + 1]), 1, None),
        (crafted(b"\x00", boot=2**32 - 1, base_mono_ms=2**53 - 1), 1, [2**63 - 1]),
        (crafted(b"\x00", base_mono_ms=2**64 - 1), 1, None),
    ],
)
def test_both_decoders_agree_at_the_edges(body: bytes, count: int, wanted: list[int] | None) -> None:
    series = pb.Series(id=1, type=pb.VT_INT64, ref=2**63 - 1)
    schema = Schema.from_declare(pb.Declare(groups=[pb.Group(id=1, series=[series])]))
    if wanted is None:
        for run in (lambda: decode(schema, body, count=count), lambda: decode_many(Table(schema), [body], [count])):
            with pytest.raises(BodyError):
                run()
        return
    decoded = decode(schema, body, count=count)
    assert decoded.blocks[0].columns == [wanted]
    same(decode_many(Table(schema), [body], [count]), [decoded], [schema])


def test_times_that_leave_64_bits_and_come_back_are_refused() -> None:
    schema = Schema.from_declare(pb.Declare(groups=[pb.Group(id=1, series=[pb.Series(id=1)])]))
    around = [2**62, 2**62, 2**62, 2**62, 5]
    body = pb.Body(group=[1], rows=[5], t=around, v=[0], constant=b"\x01").SerializeToString()
    with pytest.raises(BodyError):
        decode(schema, body, count=5)
    with pytest.raises(BodyError):
        decode_many(Table(schema), [body], [5])
    there_and_back = pb.Body(group=[1], rows=[3], t=[1, 2**63 - 1, -(2**63)], v=[0], constant=b"\x01")
    with pytest.raises(BodyError):
        decode_many(Table(schema), [there_and_back.SerializeToString()], [3])
