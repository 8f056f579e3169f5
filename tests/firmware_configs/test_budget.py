"""The read planner: everything wanted is read, within the device's limits, never dearer than one by one."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_configs.budget import Request, TcpTiming, bus_load, plan, poll_ms
from firmware_configs.schema import WIDTHS, Limits, Register, RegisterType

TIMING = TcpTiming()


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
    timing = TcpTiming(turnaround_ms=1.0, per_register_ms=0.3)
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
    slow = TcpTiming(turnaround_ms=1.0, per_register_ms=2.0)
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


def test_bus_load_tells_what_a_bus_can_do() -> None:
    requests = plan([register(0)], Limits())
    assert bus_load([(1.0, requests)] * 10) == pytest.approx(10 * poll_ms(requests) / 1000)


def test_widths_cover_every_type_but_strings() -> None:
    assert set(WIDTHS) == set(get_args(RegisterType)) - {"string"}
