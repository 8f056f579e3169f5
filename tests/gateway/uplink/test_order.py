from __future__ import annotations

import random

import pytest

from gateway.uplink.order import FRESH_IN_A_ROW, MOST_FRESH, Order


def sent(order: Order, *, newest: int, held: set[int], steps: int) -> list[int]:
    """What one slot at a time would send, of what the store `held`."""
    found: list[int] = []
    for _ in range(steps):
        turns = ["backlog", "fresh"] if order.backlogs_turn else ["fresh", "backlog"]
        for turn in turns:
            if one := _next(order, turn, newest, held):
                found.append(one)
                break
        else:
            return found
    return found


def _next(order: Order, turn: str, newest: int, held: set[int]) -> int | None:
    while span := getattr(order, turn)(newest):
        waiting = sorted(seq for seq in held if span[0] <= seq <= span[1])[:1]
        order.took(span, waiting, backlog=turn == "backlog")
        if waiting:
            held.remove(waiting[0])
            return waiting[0]
    return None


def test_the_newest_that_waits_goes_first_then_the_backlog_from_its_oldest() -> None:
    assert sent(Order(fresh_from=5), newest=5, held={1, 2, 3, 4, 5}, steps=9) == [5, 1, 2, 3, 4]


def test_what_is_sealed_meanwhile_overtakes_the_backlog() -> None:
    order, held = Order(fresh_from=5), {1, 2, 3, 4, 5}
    assert sent(order, newest=5, held=held, steps=2) == [5, 1]
    held |= {6, 7}
    assert sent(order, newest=7, held=held, steps=9) == [6, 7, 2, 3, 4]


def test_a_stream_of_news_does_not_starve_the_backlog() -> None:
    held = set(range(1, 101))
    found = sent(Order(fresh_from=51), newest=60, held=held, steps=12)
    assert found.count(1) + found.count(2) + found.count(3) == 3
    assert found[FRESH_IN_A_ROW] == 1


def test_news_that_the_link_can_not_follow_becomes_backlog() -> None:
    order, held = Order(fresh_from=1), set(range(1, MOST_FRESH + 11))
    assert sent(order, newest=MOST_FRESH + 10, held=held, steps=2) == [MOST_FRESH + 10, 1]


def test_a_server_may_ask_for_the_oldest_first() -> None:
    order = Order(fresh_from=4, oldest_first=True)
    assert sent(order, newest=5, held={1, 2, 4, 5}, steps=9) == [1, 2, 4, 5]


@pytest.mark.parametrize("seed", range(200))
def test_in_whatever_order_everything_held_is_sent_once(seed: int) -> None:
    rng = random.Random(seed)
    newest = rng.randint(1, 40)
    held = {seq for seq in range(1, newest + 1) if rng.random() < 0.7}
    order, wanted = Order(fresh_from=rng.randint(1, newest), oldest_first=rng.random() < 0.2), set(held)
    found: list[int] = []
    for _ in range(30):
        found += sent(order, newest=newest, held=held, steps=rng.randint(1, 5))
        more = set(range(newest + 1, newest + 1 + rng.choice([0, 0, 1, 3, MOST_FRESH + 2])))
        newest, held, wanted = newest + len(more), held | more, wanted | more
    found += sent(order, newest=newest, held=held, steps=10_000)
    assert sorted(found) == sorted(wanted)
