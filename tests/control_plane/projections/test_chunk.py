"""What was sealed is what came, to the bit, and nothing but BodyError comes of damage."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from control_plane.projections import chunk
from control_plane.projections.bulk import Float64
from control_plane.projections.decode import decode_many, exact
from control_plane.projections.varints import Int64
from protos.columns import BodyError, Value, decode
from tests.control_plane.projections.test_decode import SLOW, Fleet, fleets
from tests.effort import tries
from tests.protos.bodies import column_bits

NUMBERS = arrays.arrays(np.int64, st.integers(0, 200), elements=st.integers(-(2**63), 2**63 - 1))
REALS = arrays.arrays(np.float64, st.integers(0, 200), elements=st.floats())


@dataclass
class Came:
    """Of one group, everything in order."""

    times: list[int] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    columns: list[list[Value]] = field(default_factory=list)
    quality: list[list[int]] = field(default_factory=list)
    device: list[int] = field(default_factory=list)


def came(fleet: Fleet) -> dict[int, Came]:
    found: dict[int, Came] = {}
    for number, (data, count) in enumerate(zip(fleet.bodies, fleet.counts, strict=True)):
        for block in decode(fleet.schema, data, count=count).blocks:
            one = found.setdefault(block.group, Came())
            rows = len(block.times)
            one.times += block.times
            one.batches += [number] * rows
            one.device += block.device_ms or [0] * rows
            one.columns = one.columns or [[] for _ in block.columns]
            one.quality = one.quality or [[] for _ in block.columns]
            for at, values in enumerate(block.columns):
                one.columns[at] += values
                one.quality[at] += (block.quality[at] if block.quality else None) or [0] * rows
    return found


def packed(fleet: Fleet) -> tuple[bytes, bytes]:
    bulk = decode_many(fleet.table, fleet.bodies, fleet.counts)
    return chunk.pack([chunk.Part(7, bulk, [1000 * n for n in range(len(fleet.bodies))])])


@SLOW
@given(fleets())
def test_a_chunk_gives_back_what_the_batches_held(fleet: Fleet) -> None:
    wanted = came(fleet)
    toc_bytes, body = packed(fleet)
    toc = chunk.contents(toc_bytes)
    assert [one.group for one in toc.sections] == sorted(wanted)
    for section, start in chunk.starts(toc):
        piece, want = body[start : start + section.size], wanted[section.group]
        chunk.check(section, piece)
        bulk = chunk.read(section, piece, fleet.table)
        assert bulk.times.tolist() == want.times
        assert (section.first_ms, section.last_ms, section.schema) == (min(want.times), max(want.times), 7)
        assert chunk.received_ms(toc, section, piece).tolist() == [1000 * number for number in want.batches]
        assert ([0] * section.rows if bulk.device_ms is None else bulk.device_ms.tolist()) == want.device
        for column, values in enumerate(want.columns):
            assert column_bits(exact(bulk, column)) == column_bits(values)
            alone = chunk.read(section, piece, fleet.table, [column])
            assert column_bits(exact(alone, 0)) == column_bits(values)
            first = column * section.rows
            codes = [0] * section.rows if bulk.quality is None else bulk.quality[first : first + section.rows].tolist()
            assert codes == want.quality[column]


@given(NUMBERS)
def test_integers_come_back(values: Int64) -> None:
    assert chunk.unpack_ints(chunk.pack_ints(values), values.size).tolist() == values.tolist()


@given(REALS)
def test_reals_come_back_to_the_bit(values: Float64) -> None:
    assert chunk.unpack_floats(chunk.pack_floats(values), values.size).tobytes() == values.tobytes()


@settings(max_examples=tries(40), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(fleets().filter(lambda fleet: any(fleet.counts)), st.integers(0, 2**20), st.integers(1, 255))
def test_a_changed_byte_is_found(fleet: Fleet, at: int, change: int) -> None:
    toc_bytes, body = packed(fleet)
    with pytest.raises(BodyError, match="damaged"):
        chunk.contents(_changed(toc_bytes, at, change))
    toc, body = chunk.contents(toc_bytes), _changed(body, at, change)
    with pytest.raises(BodyError, match="damaged"):
        _check(toc, body)


def _check(toc: chunk.Toc, body: bytes) -> None:
    for section, start in chunk.starts(toc):
        chunk.check(section, body[start : start + section.size])


def _changed(data: bytes, at: int, change: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]


def test_a_regular_hour_costs_less_than_a_byte_for_each_reading() -> None:
    chance = np.random.default_rng(1)
    walk = np.cumsum(chance.integers(-3, 4, 3600))
    assert len(chunk.pack_ints(walk)) < 0.5 * walk.size
    assert len(chunk.pack_ints(np.full(3600, 5))) <= 4


def test_an_empty_table_of_contents_is_refused() -> None:
    with pytest.raises(BodyError, match="table of contents"):
        chunk.contents(b"")
