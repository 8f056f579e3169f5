"""The read planner: everything wanted is read, within the device's limits, never dearer than one by one."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_configs.budget import Poll, Request, SerialLine, TcpLine, freshness_ms, halves, plan, poll_ms, utilisation
from firmware_configs.schema import WIDTHS, Limits, Register, RegisterFunction, RegisterType, Span, Timing

LINE = TcpLine()


def register(address: int, type_: str = "u16", function: str = "holding") -> Register:
    return Register(
        quantity="q",
        function=function,  # type: ignore[arg-type]
        address=address,
        type=type_,  # type: ignore[arg-type]
        source="s",
    )


registers = st.lists(
    st.builds(
        register,
        st.integers(0, 400),
        st.sampled_from(["u16", "i32", "f32", "u64"]),
        st.sampled_from(["holding", "input"]),
    ),
    min_size=1,
    max_size=40,
)
limits = st.builds(Limits, max_registers=st.integers(4, 125), max_gap=st.integers(0, 60))


@given(registers, limits)
def test_every_wanted_register_is_read_whole_by_one_request(wanted: list[Register], limit: Limits) -> None:
    requests = plan(wanted, limit)
    for r in wanted:
        assert any(
            q.function == r.function and q.address <= r.address and r.address + r.width <= q.address + q.length
            for q in requests
        )


@given(registers, limits)
def test_no_request_passes_the_devices_limits(wanted: list[Register], limit: Limits) -> None:
    for q in plan(wanted, limit):
        assert q.length <= limit.max_registers
        touched = sorted({a for r in wanted if r.function == q.function for a in range(r.address, r.address + r.width)})
        inside = [a for a in touched if q.address <= a < q.address + q.length]
        assert inside[0] == q.address
        assert inside[-1] == q.address + q.length - 1
        assert all(b - a - 1 <= limit.max_gap for a, b in itertools.pairwise(inside))


@given(registers, limits)
def test_a_plan_is_never_dearer_nor_longer_than_one_request_per_value(wanted: list[Register], limit: Limits) -> None:
    naive = {Request(r.function, r.address, r.width) for r in wanted}
    requests = plan(wanted, limit)
    assert len(requests) <= len(naive)
    assert poll_ms(requests) <= poll_ms(sorted(naive)) + 1e-9


@given(registers, limits, st.randoms())
def test_a_plan_does_not_depend_on_the_order_of_the_profile(
    wanted: list[Register], limit: Limits, random: object
) -> None:
    shuffled = list(wanted)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan(wanted, limit) == plan(shuffled, limit)


@given(st.sets(st.integers(0, 60), min_size=1, max_size=8), st.integers(0, 8), st.integers(1, 20))
def test_a_plan_costs_what_the_cheapest_of_all_partitions_costs(addresses: set[int], gap: int, most: int) -> None:
    ordered = sorted(addresses)
    limit = Limits(max_registers=most, max_gap=gap)
    timing = TcpLine(turnaround_ms=1.0, per_register_ms=0.3)
    best = float("inf")
    for cuts in itertools.product([False, True], repeat=len(ordered) - 1):
        runs = [[ordered[0]]]
        for cut, address in zip(cuts, ordered[1:], strict=True):
            runs.append([address]) if cut else runs[-1].append(address)
        if all(r[-1] - r[0] < most and all(b - a - 1 <= gap for a, b in itertools.pairwise(r)) for r in runs):
            best = min(best, poll_ms([Request("holding", r[0], r[-1] - r[0] + 1) for r in runs], timing))
    assert poll_ms(plan([register(a) for a in ordered], limit, timing), timing) == pytest.approx(best)


def test_neighbours_become_one_request() -> None:
    assert plan([register(a) for a in range(100)], Limits()) == (Request("holding", 0, 100),)


def test_a_hole_is_left_alone_unless_the_device_allows_reading_it() -> None:
    wanted = [register(0), register(5)]
    assert len(plan(wanted, Limits(max_gap=0))) == 2
    assert plan(wanted, Limits(max_gap=4)) == (Request("holding", 0, 6),)


def test_a_hole_dearer_than_a_request_is_not_read() -> None:
    slow = TcpLine(turnaround_ms=1.0, per_register_ms=2.0)
    assert len(plan([register(0), register(5)], Limits(max_gap=100), slow)) == 2


def test_tables_are_never_mixed() -> None:
    assert plan([register(0), register(1, function="input")], Limits(max_gap=9)) == (
        Request("holding", 0, 1),
        Request("input", 1, 1),
    )


def test_coils_count_as_bits() -> None:
    wanted = [register(a, "bool", "coil") for a in range(0, 2000, 100)]
    assert plan(wanted, Limits(max_gap=124)) == (Request("coil", 0, 1901),)


def test_a_value_wider_than_a_request_is_refused() -> None:
    with pytest.raises(ValueError, match="don't fit"):
        plan([register(0, "u64")], Limits(max_registers=2))


FORBIDDEN = Limits(max_gap=20, forbidden=(Span(function="holding", first=5, last=6),))


def test_a_forbidden_span_is_never_crossed() -> None:
    assert plan([register(0), register(4), register(7)], FORBIDDEN) == (
        Request("holding", 0, 5),
        Request("holding", 7, 1),
    )
    assert len(plan([register(0, function="input"), register(9, function="input")], FORBIDDEN)) == 1
    with pytest.raises(ValueError, match="holding 5: is wanted, and forbidden"):
        plan([register(5)], FORBIDDEN)


def test_a_device_that_answers_no_blocks_is_asked_value_by_value() -> None:
    wanted = [register(0, "u32"), register(2), register(3), *[register(3, "bool")] * 2]
    one_by_one = plan(wanted, Limits(one_by_one=True))
    assert one_by_one == (Request("holding", 0, 2), Request("holding", 2, 1), Request("holding", 3, 1))


@given(registers, limits, st.sets(st.integers(0, 400), max_size=6))
def test_no_request_goes_over_a_cut_but_inside_a_value(wanted: list[Register], limit: Limits, cuts: set[int]) -> None:
    for q in plan(wanted, limit, cuts=[("holding", cut) for cut in cuts]):
        whole = [(r.address, r.address + r.width) for r in wanted if r.function == q.function == "holding"]
        for cut in cuts:
            over = q.function == "holding" and q.address < cut < q.address + q.length
            assert not over or any(start < cut < end for start, end in whole)


@given(registers, limits)
def test_what_is_refused_can_be_halved_down_to_single_values(wanted: list[Register], limit: Limits) -> None:
    cuts: list[tuple[RegisterFunction, int]] = []
    while True:
        found = [cut for request in plan(wanted, limit, cuts=cuts) if (cut := halves(request, wanted)) is not None]
        if not found:
            break
        assert not set(found) & set(cuts)
        cuts += found
    apart = {(r.function, r.address) for r in wanted}
    assert {(q.function, q.address) for q in plan(wanted, limit, cuts=cuts)} <= apart


def test_a_serial_request_takes_its_characters_its_silences_and_the_devices_turnaround() -> None:
    ten = Request("holding", 0, 10)
    character_ms = 11 / 9.6
    silence_ms = 3.5 * character_ms
    assert SerialLine().request_ms(ten) == pytest.approx(33 * character_ms + 10 + silence_ms)
    prompt = Timing(turnaround_ms=0.0, pause_ms=2)
    assert SerialLine().request_ms(ten, prompt) == pytest.approx(33 * character_ms + 2 * silence_ms + 2)
    fast = SerialLine(baud=115_200, character_bits=10)
    assert fast.request_ms(ten, Timing(turnaround_ms=0.0)) == pytest.approx(33 * 10 / 115.2 + 3.5)
    assert SerialLine(ascii=True, character_bits=10).request_ms(ten) == pytest.approx((2 * 31 + 6) * 10 / 9.6 + 10)


def test_gaps_are_filled_by_what_they_cost_on_their_line() -> None:
    wanted = [register(0), register(16)]  # a gap of 30 characters; a request is 20 and the device's turnaround
    assert len(plan(wanted, Limits(max_gap=20), SerialLine(baud=9600, turnaround_ms=5.0))) == 2
    assert len(plan(wanted, Limits(max_gap=20), SerialLine(baud=115_200, turnaround_ms=5.0))) == 1
    assert len(plan(wanted, Limits(max_gap=20), SerialLine(baud=9600), timing=Timing(turnaround_ms=60.0))) == 1


def test_utilisation_tells_what_a_bus_can_do_and_freshness_how_old_its_values_get() -> None:
    polls = [Poll(1.0, 100.0), Poll(0.5, 50.0), Poll(10.0, 400.0)]
    assert utilisation(polls) == pytest.approx(0.1 + 0.1 + 0.04)
    assert freshness_ms(polls[0], polls[1:]) == 1000 + 100 + 400
    assert freshness_ms(polls[0], []) == 1100


def test_widths_cover_every_type_but_strings() -> None:
    assert set(WIDTHS) == set(get_args(RegisterType)) - {"string"}
