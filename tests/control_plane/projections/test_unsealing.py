"""What is rolled up is what a reader of the chunk sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.projections import chunk
from control_plane.projections.unsealing import numbers
from protos.columns import BodyError
from protos.comboio.v1 import batch_pb2 as pb
from tests.control_plane.projections.test_chunk import packed
from tests.control_plane.projections.test_decode import SLOW, Fleet, fleets
from tests.effort import tries


@settings(SLOW, max_examples=tries(40))
@given(fleets(), st.integers(0, 5000), st.integers(1, 255))
def test_all_columns_at_once_are_the_columns_one_by_one(fleet: Fleet, at: int, change: int) -> None:
    toc, body = packed(fleet)
    found = numbers(toc, body, lambda _: fleet.table)
    column, value0 = 0, 0
    for section, start in chunk.starts(chunk.contents(toc)):
        read = chunk.read(section, body[start : start + section.size], fleet.table)
        group = fleet.table.schema.groups[section.group]
        for index, spec in enumerate(group.columns):
            if spec.type == pb.VT_STRING:
                continue
            rows, time0 = int(found.rows[column]), int(found.time0[column])
            values = found.values[value0 : value0 + rows]
            assert found.keys[column] == (group.sensor, spec.name)
            assert found.times[time0 : time0 + rows].tolist() == read.times.tolist()
            same = read.values[index * section.rows : (index + 1) * section.rows]
            assert np.array_equal(values, same, equal_nan=True)
            column, value0 = column + 1, value0 + rows
    assert (len(found.keys), found.values.size) == (column, value0)
    if body:
        damaged = bytearray(body)
        damaged[at % len(body)] ^= change
        with pytest.raises(BodyError):
            numbers(toc, bytes(damaged), lambda _: fleet.table)
