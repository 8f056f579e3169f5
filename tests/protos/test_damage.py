from __future__ import annotations

import time
import tracemalloc

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protos.columns import (
    MAX_COUNT,
    Block,
    BodyError,
    Dictionary,
    Packer,
    Schema,
    decode,
    encode,
    pack,
    unpack,
)
from protos.comboio.v1 import batch_pb2 as pb
from tests.effort import tries
from tests.protos.bodies import Case, cases
from tests.protos.test_columns import golden, one_group

SLOW = settings(
    max_examples=tries(200), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


# --- bad bytes -----------------------------------------------------------------------------------------


def mutate(data: bytes, edits: list[tuple[int, int, int]]) -> bytes:
    out = bytearray(data)
    for kind, position, byte in edits:
        at = position % (len(out) + 1)
        if kind == 0:
            out[at : at + 1] = bytes((byte,))
        elif kind == 1:
            out[at:at] = bytes((byte,))
        else:
            del out[at : at + 1 + byte % 4]
    return bytes(out)


EDITS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4)


@SLOW
@given(cases(), EDITS)
def test_a_damaged_body_is_refused_or_has_the_count_it_declares(case: Case, edits: list[tuple[int, int, int]]) -> None:
    schema = case.schema
    data, count = encode(schema, boot=1, blocks=case.blocks, events=case.events)
    try:
        decoded = decode(schema, mutate(data, edits), count=count)
    except BodyError:
        return
    assert sum(len(column) for block in decoded.blocks for column in block.columns) == count
    assert all(len(column) == len(block.times) for block in decoded.blocks for column in block.columns)


@SLOW
@given(st.binary(max_size=200), st.integers(0, 50))
def test_noise_is_no_body(data: bytes, count: int) -> None:
    try:
        decoded = decode(golden()[0], data, count=count)
    except BodyError:
        return
    assert sum(len(column) for block in decoded.blocks for column in block.columns) == count


DICTIONARY = Dictionary(b"temperature humidity pressure " * 20)


def packed_with(dictionary: Dictionary | None, data: bytes, level: int) -> tuple[int, bytes]:
    return Packer(dictionary, level=level).pack(data) if dictionary else pack(data, level=level)


@SLOW
@given(st.binary(max_size=300), st.booleans(), st.sampled_from([1, 3, 12]))
def test_what_is_packed_is_unpacked(data: bytes, with_dictionary: bool, level: int) -> None:
    dictionary = DICTIONARY if with_dictionary else None
    codec, packed = packed_with(dictionary, data * 3, level)
    assert len(packed) <= 3 * len(data)
    assert unpack(codec, packed, body_len=3 * len(data), dictionary=dictionary) == data * 3


def test_what_does_not_shrink_is_left_as_it_is() -> None:
    assert pack(b"\x01\x02") == (pb.CODEC_NONE, b"\x01\x02")


@SLOW
@given(st.binary(min_size=20, max_size=300), EDITS, st.booleans())
def test_a_damaged_frame_is_refused_or_has_its_length(
    data: bytes, edits: list[tuple[int, int, int]], with_dictionary: bool
) -> None:
    dictionary = DICTIONARY if with_dictionary else None
    codec, packed = packed_with(dictionary, data * 3, 15)
    try:
        body = unpack(codec, mutate(packed, edits), body_len=3 * len(data), dictionary=dictionary)
    except BodyError:
        return
    assert len(body) == 3 * len(data)


def test_frames_that_are_not_exactly_one_body_are_refused() -> None:
    body = b"abc" * 100
    _, packed = pack(body)
    sized = zstandard.ZstdCompressor(write_content_size=True).compress(body)
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    assert unpack(pb.CODEC_ZSTD, sized, body_len=300) == body
    for data, length in [
        (packed, 299), (packed, 301), (sized, 299), (packed + b"x", 300), (packed + packed, 600),
        (packed[:-1], 300), (skippable, 4), (skippable + packed, 300), (b"", 0), (packed, 0), (packed, 1 << 30),
    ]:  # fmt: skip
        with pytest.raises(BodyError):
            unpack(pb.CODEC_ZSTD, data, body_len=length)
    for codec in (pb.CODEC_ZSTD_DICT, 3, -1):
        with pytest.raises(BodyError):
            unpack(codec, packed, body_len=300)


# --- bombs ---------------------------------------------------------------------------------------------


def refused_cheaply(schema: Schema, data: bytes, count: int, *, limit_mb: int, limit_s: float = 5.0) -> None:
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(BodyError):
            decode(schema, data, count=count)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit_mb << 20
    assert time.process_time() - started < limit_s


@pytest.mark.parametrize("count", [2**31, MAX_COUNT + 1, MAX_COUNT, 1])
def test_constants_are_not_expanded_on_the_word_of_their_sender(count: int) -> None:
    schema = one_group(pb.Series())
    body = pb.Body(group=[1] * 1000, rows=[2**31] * 1000, t=[0] * 1000, v=[0] * 1000, constant=b"\xff" * 125)
    refused_cheaply(schema, body.SerializeToString(), count, limit_mb=5)


@pytest.mark.parametrize(
    "body",
    [
        pb.Body(group=[1] * 4_000_000, rows=[1] * 4_000_000),
        pb.Body(v=[0] * 8_000_000),
        pb.Body(constant=b"\xff" * 8_000_000),
        pb.Body(q_pos=[0] * 2_000_000, q_len=[1] * 2_000_000, q_code=[1] * 2_000_000),
        pb.Body(strings=[""] * 4_000_000),
        pb.Body(events=[pb.Event()] * 2_000_000),
    ],
    ids=["groups", "integers", "bitmap", "runs", "strings", "events"],
)
def test_arrays_without_readings_are_refused_before_they_grow(body: pb.Body) -> None:
    refused_cheaply(one_group(pb.Series()), body.SerializeToString(), 1, limit_mb=100)


def test_many_narrow_groups_take_linear_time() -> None:
    schema = one_group(pb.Series())
    started = time.process_time()
    data, count = encode(schema, boot=1, blocks=[Block(1, [5], [[5]])] * 100_000)
    assert len(decode(schema, data, count=count).blocks) == 100_000
    assert time.process_time() - started < 20


def test_a_frame_is_not_unpacked_beyond_its_declared_length() -> None:
    bomb = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 28))
    promise = zstandard.ZstdCompressor(write_content_size=True).compress(bytes(1 << 28))
    tracemalloc.start()
    try:
        for data in (bomb, promise):
            with pytest.raises(BodyError):
                unpack(pb.CODEC_ZSTD, data, body_len=1000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
