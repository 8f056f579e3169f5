"""What a device refuses is found, left out, remembered and tried again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_configs.budget import Request, TcpLine
from firmware_configs.schema import Derived, Limits, ModbusProfile, Register, Source, Term
from gateway.sensors.modbus_reads import SURE_AFTER, TRY_AGAIN_MS, Reads
from protos.comboio.v1 import batch_pb2 as pb
from tests.effort import tries

BAD = int(pb.QUALITY_BAD_SENSOR)


def profile(
    addresses: list[int], *, version: int = 1, max_gap: int = 50, derived: tuple[Derived, ...] = ()
) -> ModbusProfile:
    registers = tuple(
        Register(quantity=f"q{address}", function="holding", address=address, type="u16", source="s")
        for address in addresses
    )
    return ModbusProfile(
        vendor="acme",
        model="probe",
        version=version,
        description="d",
        sources=(Source(id="s", title="t"),),
        limits=Limits(max_gap=max_gap),
        register=registers,
        derived=derived,
    )


def poll(reads: Reads, refused: set[int], *, now_ms: int = 0) -> tuple[object, ...] | None:
    """One poll of a device whose registers hold their address; None if it refused."""
    answers = []
    for request in reads.requests:
        touched = range(request.address, request.address + request.length)
        if refused.intersection(touched):
            reads.refused(request, 2, now_ms=now_ms)
            return None
        answers.append(list(touched))
    values, _ = reads.decode(answers)
    reads.answered(now_ms=now_ms)
    return values


@settings(max_examples=tries(60), deadline=None)
@given(st.sets(st.integers(0, 90), min_size=1, max_size=20), st.sets(st.integers(0, 90), max_size=20))
def test_only_what_is_really_refused_is_missing(addresses: set[int], refused: set[int]) -> None:
    ordered = sorted(addresses)
    reads = Reads("probe", profile(ordered), TcpLine())
    there = [a for a in ordered if a not in refused]
    values = None
    for _ in range(40 + SURE_AFTER * len(ordered) + 2 * len(ordered)):
        values = poll(reads, refused)
        if values is not None:
            break
    if there:
        assert values == tuple(a if a in there else None for a in ordered)
        assert reads.missing == tuple(f"q{a}" for a in ordered if a in refused)
    else:
        assert values is None
        assert len(reads.missing) == len(ordered) - 1


def test_other_exceptions_change_nothing() -> None:
    reads = Reads("probe", profile([1, 2, 3]), TcpLine())
    for code in (1, 4, 5, 6, 10, 11):
        reads.refused(reads.requests[0], code, now_ms=0)
    assert reads.requests == (Request("holding", 1, 3),)


def test_one_refusal_of_a_single_value_may_be_a_start_up() -> None:
    reads = Reads("probe", profile([1, 40], max_gap=0), TcpLine())
    assert [poll(reads, {40}) for _ in range(SURE_AFTER - 1)] == [None] * (SURE_AFTER - 1)
    assert poll(reads, set()) == (1, 40)
    assert [poll(reads, {40}) for _ in range(SURE_AFTER - 1)] == [None] * (SURE_AFTER - 1)
    assert not reads.missing


def test_what_is_missing_has_its_quality_and_sums_of_it_are_missing_too() -> None:
    sums = (Derived(quantity="both", terms=(Term(of="q1"), Term(of="q40")), source="s"),)
    reads = Reads("probe", profile([1, 2, 40], max_gap=0, derived=sums), TcpLine())
    while poll(reads, {40}) is None:
        pass
    assert reads.decode([[1, 2]]) == ((1, 2, None, None), (0, 0, BAD, BAD))


def test_after_an_hour_it_is_asked_for_again() -> None:
    reads = Reads("probe", profile([1, 40], max_gap=0), TcpLine())
    while poll(reads, {40}) is None:
        pass
    assert poll(reads, {40}, now_ms=TRY_AGAIN_MS - 1) == (1, None)
    assert poll(reads, set(), now_ms=TRY_AGAIN_MS) == (1, None)
    assert poll(reads, set(), now_ms=TRY_AGAIN_MS + 1) == (1, 40)


def test_where_blocks_end_is_remembered_over_a_restart_for_the_same_profile(tmp_path: Path) -> None:
    memory = tmp_path / "modbus" / "probe.json"
    reads = Reads("probe", profile([1, 3]), TcpLine(), memory=memory)
    assert poll(reads, {2}) is None
    again = Reads("probe", profile([1, 3]), TcpLine(), memory=memory)
    assert poll(again, {2}) == (1, 3)
    newer = Reads("probe", profile([1, 3], version=2), TcpLine(), memory=memory)
    assert newer.requests == (Request("holding", 1, 3),)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"profile": "acme-probe@1", "cuts": [[1]]}', b"\xff"])
def test_a_memory_that_cannot_be_read_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    memory = tmp_path / "probe.json"
    memory.write_bytes(content)
    assert Reads("probe", profile([1, 3]), TcpLine(), memory=memory).requests == (Request("holding", 1, 3),)
