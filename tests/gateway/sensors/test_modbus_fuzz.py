"""Peers that answer in every wrong way: never a wrong value, every failure named, and right again afterwards."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firmware_configs.budget import Request
from gateway.sensors.modbus_frames import ReadFailed, misfit, question
from gateway.sensors.modbus_framing import Broken, Frame, ascii_, crc16, rtu, tcp
from gateway.sensors.modbus_link import ModbusLink
from tests.effort import tries
from tests.gateway.sensors.modbus_ends import KINDS, SERIAL
from tests.gateway.sensors.modbus_peer import NOT_TOLD, ONLY_TCP, WAYS, Peer, peered

TEN = Request("holding", 0, 10)
CUTS = {"tcp": tcp, "rtu": rtu, "ascii": ascii_}

# What a read that is answered so becomes: the right values, or one of these causes.
COSTS_NOTHING = {"right", "trickle", "pieces", "foreign before", "twice"}
NAMED: dict[str, set[str]] = {
    "silent": {"timeout"},
    "late": {"timeout"},
    "truncated": {"malformed"},
    "shorter": {"malformed"},
    "odd length": {"malformed"},
    "longer": {"malformed"},
    "byte count": {"malformed"},
    "empty": {"malformed"},
    "function": {"malformed"},
    "unknown function": {"malformed"},
    "unit": {"malformed"},
    "exception": {"exception"},
    "exception of another function": {"malformed"},
    "glued": {"malformed"},
    "glued foreign": {"malformed"},
    "garbage": {"malformed", "protocol"},
    "bit flipped": {"malformed", "protocol", "timeout"},
    "check": {"malformed"},
    "transaction": {"malformed"},
    "transaction 0": {"malformed"},
    "protocol": {"protocol"},
    "huge": {"malformed", "protocol"},
}


async def read(peer: Peer, link: ModbusLink) -> ReadFailed | None:
    """Ask once; values must be those of the answer to this very question."""
    before = peer.asked
    try:
        values = await link.read(1, TEN)
    except ReadFailed as failure:
        return failure
    assert peer.asked > before
    assert tuple(values) == peer.expected(10)
    return None


async def recover(peer: Peer, link: ModbusLink, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while (failure := await read(peer, link)) is not None:
        assert time.monotonic() < deadline, failure
        await asyncio.sleep(0.05)


async def answered_so(peer: Peer, link: ModbusLink, way: str) -> ReadFailed | None:
    await recover(peer, link)
    peer.script[:] = [way]
    return await read(peer, link)


@pytest.mark.parametrize("kind", KINDS)
async def test_each_wrong_way_is_named_and_none_lasts(kind: str, tmp_path: Path) -> None:
    async with peered(kind, tmp_path, timeout_s=0.3) as (peer, link):
        for way, causes in NAMED.items():
            if way in ONLY_TCP and kind in SERIAL:
                continue
            failure = await answered_so(peer, link, way)
            for _ in range(4):
                if failure is None or failure.cause in causes or failure.cause != "timeout":
                    break  # a busy machine may be late itself
                failure = await answered_so(peer, link, way)
            if way in {"glued", "glued foreign"} and kind not in SERIAL:
                failure = failure or await read(peer, link)  # the header told where the answer ends
            assert failure is not None, way
            assert failure.cause in causes, (way, failure)
            assert str(failure), way
        await recover(peer, link)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", sorted(COSTS_NOTHING))
async def test_what_only_looks_wrong_costs_nothing(kind: str, way: str, tmp_path: Path) -> None:
    async with peered(kind, tmp_path, timeout_s=5.0) as (peer, link):
        await recover(peer, link)
        peer.script[:] = [way]
        failure = await read(peer, link)
        if (
            way == "twice" and kind in SERIAL
        ):  # one of them could be an older answer: both are refused if they come at once
            assert failure is None or "the answer" in str(failure)
        else:
            assert failure is None


@pytest.mark.parametrize("kind", SERIAL)
async def test_noise_of_the_line_before_an_answer_costs_nothing(kind: str, tmp_path: Path) -> None:
    async with peered(kind, tmp_path, timeout_s=5.0) as (peer, link):
        await recover(peer, link)
        peer.script[:] = ["noise before"]
        assert await read(peer, link) is None


@pytest.mark.parametrize("code", [*range(1, 12), 0, 0xFF])
async def test_every_exception_is_told_by_its_name(code: int, tmp_path: Path) -> None:
    names = {1: "illegal function", 2: "illegal data address", 3: "illegal data value", 4: "server device failure",
             5: "acknowledge", 6: "busy", 8: "parity", 10: "path unavailable", 11: "failed to respond"}  # fmt: skip
    async with peered("tcp", tmp_path, timeout_s=5.0) as (peer, link):
        peer.script[:] = [f"exception {code}"]
        failure = await read(peer, link)
    assert failure is not None
    assert (failure.cause, failure.code) == ("exception", code)
    assert names.get(code, "not defined by Modbus") in str(failure)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_device_that_always_lags_one_answer_behind_is_never_believed(kind: str, tmp_path: Path) -> None:
    async with peered(kind, tmp_path, timeout_s=0.05) as (peer, link):
        await recover(peer, link)
        for _ in range(3):
            peer.script[:] = ["late"]
            await read(peer, link)
            await recover(peer, link)
        assert link.dropped["late"] >= 1


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=tries(8), deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    script=st.lists(st.sampled_from(sorted(WAYS)), min_size=1, max_size=12),
    seed=st.integers(min_value=0, max_value=2**32),
)
def test_no_order_of_wrong_ways_makes_a_wrong_value(kind: str, script: list[str], seed: int) -> None:
    async def play(folder: Path) -> None:
        async with peered(kind, folder, timeout_s=0.02, seed=seed) as (peer, link):
            peer.script[:] = [way for way in script if way not in (ONLY_TCP | NOT_TOLD if kind in SERIAL else ())]
            causes = Counter[str]()
            for _ in range(60):
                if not peer.script:
                    break
                failure = await read(peer, link)
                causes[failure.cause if failure is not None else "right"] += 1
                if failure is not None and failure.cause == "unreachable":
                    await asyncio.sleep(0.05)
            assert causes["internal"] == 0
            await recover(peer, link)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder)))


# --- bytes alone ----------------------------------------------------------------------------------------


@settings(max_examples=tries(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=st.sampled_from(sorted(CUTS)), heard=st.binary(max_size=600))
def test_any_bytes_are_a_frame_or_wrong_or_not_yet_whole(name: str, heard: bytes) -> None:
    found = CUTS[name](heard, b"\x01\x03\x14")
    assert found is None or isinstance(found, Frame | Broken)
    if isinstance(found, Frame):
        assert found.adu in heard
        assert found.pdu
        assert found.end <= len(heard)
        misfit(question(TEN), found.pdu)


@settings(max_examples=tries(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    asked=st.sampled_from([question(TEN), b"\x05\0\1\xff\0", b"\x10\0\1\0\2\4abcd", b"\x2b\x0e\3\0", b"\x08\0\0ab"]),
    data=st.binary(max_size=80),
)
def test_any_answer_fits_or_is_told_why_not(asked: bytes, data: bytes) -> None:
    why = misfit(asked, asked[:1] + data)
    assert why is None or why


def test_the_check_sum_is_the_standards() -> None:
    assert crc16(b"123456789") == 0x4B37  # the usual check value of CRC-16/MODBUS
    assert crc16(bytes.fromhex("02074112")) == 0  # a whole frame leaves nothing
