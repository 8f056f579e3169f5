"""Turns, polls, the pairing agent, and what a configuration of peripherals may not say."""

from __future__ import annotations

import asyncio

import pytest
from dbus_fast import Message, MessageType

from firmware_configs.document import disagreements
from firmware_configs.loader import Profiles
from gateway.errors import Misconfigured
from gateway.sensors.gatt_bond import AGENT, _answer
from gateway.sensors.gatt_polls import Polls
from gateway.sensors.gatt_turns import Turns
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import from_toml
from tests.gateway.sensors.listening import listening
from tests.gateway.sensors.rig import until

MINE = "/org/bluez/hci0/dev_F0_F1_F2_F3_F4_01"


async def test_turns_are_taken_in_the_order_of_asking_and_never_more_than_there_are() -> None:
    turns = Turns(connections=2)
    inside: list[int] = []
    order: list[int] = []
    most = 0

    async def visit(number: int) -> None:
        nonlocal most
        async with turns.turn():
            inside.append(number)
            order.append(number)
            most = max(most, len(inside))
            await asyncio.sleep(0)
            inside.remove(number)

    async with asyncio.TaskGroup() as tasks:
        for number in range(20):
            tasks.create_task(visit(number))
    assert order == list(range(20))
    assert most == 2
    assert not turns.wanted


async def test_who_is_cancelled_while_waiting_or_at_the_very_moment_takes_no_turn_with_him() -> None:
    turns = Turns(connections=1)
    holds = asyncio.Event()

    async def hold() -> None:
        async with turns.turn():
            await holds.wait()

    async def wait() -> None:
        async with turns.turn():
            raise AssertionError("it was cancelled")

    holder = asyncio.create_task(hold())
    waiters = [asyncio.create_task(wait()) for _ in range(2)]
    await until(lambda: turns.wanted)
    waiters[0].cancel()
    holds.set()
    await holder
    waiters[1].cancel()  # its turn was given to it a moment ago
    await asyncio.gather(*waiters, return_exceptions=True)
    async with asyncio.timeout(5), turns.turn():
        assert not turns.wanted


def test_what_passes_while_a_visit_fails_failed_and_what_passes_in_a_good_one_was_skipped() -> None:
    polls = Polls(started_ms=0, period_ms=100)
    polls.begin(0)
    assert list(polls.good(50)) == []
    assert polls.due_ms == 100
    polls.begin(100)
    assert list(polls.failed(350)) == []
    assert (polls.due_ms, polls.since_ms) == (400, 100)
    polls.begin(400)
    (lost,) = polls.good(410)
    assert (lost.after_mono_ms, lost.before_mono_ms, lost.reads, lost.reason) == (50, 410, 3, pb.GAP_UNREADABLE)
    polls.begin(500)
    assert list(polls.good(750)) == []
    assert (polls.due_ms, polls.late) == (800, 2)
    polls.begin(800)
    by_reason = {lost.reason: lost.reads for lost in polls.end(900)}
    assert by_reason == {pb.GAP_UNREADABLE: 2, pb.GAP_QUEUE_FULL: 2}


def test_what_passes_while_it_is_not_heard_has_failed_even_if_the_visit_goes_well() -> None:
    polls = Polls(started_ms=0, period_ms=100)
    polls.begin(0)
    polls.unheard(730)
    assert (polls.due_ms, polls.since_ms) == (700, 0)
    (lost,) = polls.good(790)
    assert (lost.reads, lost.reason) == (7, pb.GAP_UNREADABLE)
    assert polls.late == 0


def test_each_read_is_a_row_or_in_one_gap() -> None:
    polls = Polls(started_ms=0, period_ms=10, close_every_ms=200)
    rows = lost = 0
    for turn in range(100):
        now_ms = polls.due_ms
        polls.begin(now_ms)
        if turn % 3:
            lost += sum(one.reads for one in polls.good(now_ms + 25))
            rows += 1
        else:
            reason = pb.GAP_REFUSED if turn % 2 else pb.GAP_UNREADABLE
            lost += sum(one.reads for one in polls.failed(now_ms + 25, reason))
    due_ms = polls.due_ms
    lost += sum(one.reads for one in polls.end(due_ms))
    assert rows + lost == due_ms // 10


def asked(member: str, device: str) -> Message:
    return Message(path="/comboio/agent", interface=AGENT, member=member, signature="o", body=[device], sender=":1.1")


@pytest.mark.parametrize(
    ("member", "how", "device", "answered"),
    [
        ("RequestPasskey", "passkey", MINE, True),
        ("RequestPinCode", "passkey", MINE, True),
        ("RequestPasskey", "passkey", MINE + "2", False),
        ("RequestPasskey", "just_works", MINE, False),
        ("RequestAuthorization", "just_works", MINE, True),
        ("RequestAuthorization", "passkey", MINE, False),
        ("RequestConfirmation", "just_works", MINE + "2", False),
        ("AuthorizeService", "just_works", MINE, False),
    ],
)
def test_the_agent_speaks_for_one_device_and_one_way_of_pairing(
    member: str, how: str, device: str, answered: bool
) -> None:
    call = asked(member, device)
    call.serial = 1
    reply = _answer(call, device=MINE, how=how, passkey=123)
    assert (reply.message_type is MessageType.METHOD_RETURN) is answered


def two(first: str, second: str, scan: str = "auto") -> list[str]:
    text = f'config_version = 1\n[ble]\nscan = "{scan}"\n'
    for number, profile in enumerate((first, second)):
        text += f'[[sensor]]\nid = "s{number}"\ndriver = "gatt"\naddress = "F0:F1:F2:F3:F4:01"\nprofile = "{profile}"\n'
    return list(disagreements(from_toml(text), Profiles()))


def test_a_peripheral_that_stays_connected_has_one_sensor() -> None:
    assert two("bluetooth-environment@1", "bluetooth-battery@1") == []
    (said,) = two("bluetooth-thermometer@1", "bluetooth-battery@1")
    assert said.startswith("sensor[0].profile: bluetooth-thermometer@1 stays connected, so that s1 of the same address")


def test_peripherals_and_passive_scanning_do_not_go_together() -> None:
    (said,) = two("bluetooth-environment@1", "bluetooth-battery@1", scan="passive")
    assert said.startswith("ble.scan: passive does not tell")


async def test_an_unknown_profile_is_told_with_its_sensor() -> None:
    with pytest.raises(Misconfigured, match=r"sensor s: profile .*did you mean bluetooth-battery@1"):
        async with listening(
            '[[sensor]]\nid = "s"\ndriver = "gatt"\naddress = "F0:F1:F2:F3:F4:01"\nprofile = "bluetooth-batery@1"\n'
        ):
            pass
