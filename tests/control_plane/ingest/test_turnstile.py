from __future__ import annotations

import heapq
from bisect import bisect

import pytest

from control_plane.ingest.quota import BURST_S, DAY_S, Quota
from control_plane.ingest.turnstile import EARLY_S, KEPT_S, STAYS_S, Turnstile


@pytest.fixture
def now_s() -> list[float]:
    return [1000.0]


def test_a_fleet_that_comes_back_at_once_is_in_within_a_minute_and_never_faster_than_the_limit(
    now_s: list[float],
) -> None:
    per_s, size = 250, 10_000
    turnstile = Turnstile(per_s=per_s, monotonic_s=lambda: now_s[0])
    coming = [(now_s[0], f"gw-{number}") for number in range(size)]
    came_in: list[float] = []
    while coming:
        now_s[0], gateway = heapq.heappop(coming)
        wait_s = turnstile.wait_s(gateway)
        if wait_s > STAYS_S:
            heapq.heappush(coming, (now_s[0] + wait_s, gateway))
        else:
            came_in.append(now_s[0] + wait_s)
    came_in.sort()
    assert came_in[-1] - 1000.0 <= 60
    most = max(bisect(came_in, begin + 1) - number for number, begin in enumerate(came_in))
    assert most <= per_s * (1 + EARLY_S) + 1


def test_who_comes_too_early_keeps_the_turn_he_has(now_s: list[float]) -> None:
    turnstile = Turnstile(per_s=1, monotonic_s=lambda: now_s[0])
    waits = [turnstile.wait_s(f"gw-{number}") for number in range(5)]
    assert waits == [0, 1, 2, 3, 4]
    now_s[0] += 1
    assert turnstile.wait_s("gw-4") == 3
    now_s[0] += 3
    assert turnstile.wait_s("gw-4") == 0


def test_a_turn_that_nobody_came_for_is_given_up(now_s: list[float]) -> None:
    turnstile = Turnstile(per_s=1, monotonic_s=lambda: now_s[0])
    for number in range(5):
        turnstile.wait_s(f"gw-{number}")
    now_s[0] += 5 + KEPT_S
    assert [turnstile.wait_s("gw-9"), turnstile.wait_s("gw-4")] == [0, 1]


def test_a_gateway_is_over_its_batches_after_a_minutes_burst_and_only_it(now_s: list[float]) -> None:
    quota = Quota(batches_per_s=2, bytes_per_day=0, monotonic_s=lambda: now_s[0])
    for _ in range(int(2 * BURST_S)):
        assert quota.take("noisy", 100) == (0.0, "")
    over_s, why = quota.take("noisy", 100)
    assert (over_s, why) == (0.5, "sends more than 2 batches a second")
    assert quota.take("quiet", 100) == (0.0, "")
    now_s[0] += 1
    assert quota.take("noisy", 100) == (0.0, "")


def test_a_gateway_over_its_days_bytes_is_slowed_to_the_average(now_s: list[float]) -> None:
    quota = Quota(batches_per_s=0, bytes_per_day=86_400, monotonic_s=lambda: now_s[0])
    assert quota.take("gw", 86_400) == (0.0, "")
    over_s, why = quota.take("gw", 10)
    assert (round(over_s), why) == (10, "sends more than 86400 bytes a day")
    now_s[0] += DAY_S
    assert quota.take("gw", 86_000) == (0.0, "")


def test_without_limits_nothing_is_counted(now_s: list[float]) -> None:
    quota = Quota(batches_per_s=0, bytes_per_day=0, monotonic_s=lambda: now_s[0])
    assert all(quota.take("gw", 1 << 40) == (0.0, "") for _ in range(1000))
