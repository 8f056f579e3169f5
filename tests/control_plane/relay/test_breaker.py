from __future__ import annotations

import pytest

from control_plane.relay.breaker import FIRST_REST_MS, LONGEST_REST_MS, Breaker
from control_plane.relay.connector import Class
from control_plane.relay.pace import ANSWERS, Pace


def failed(breaker: Breaker, *keys: str, at_ms: int = 0) -> None:
    for key in keys:
        breaker.took(key, "TRANSIENT", at_ms)


def test_failures_in_a_row_of_several_keys_open_it() -> None:
    breaker = Breaker(in_a_row=3)
    failed(breaker, "a", "b")
    assert breaker.state(0) == "closed"
    failed(breaker, "a")
    assert (breaker.state(0), breaker.open_until_ms) == ("open", FIRST_REST_MS)


def test_one_key_alone_never_opens_it() -> None:
    breaker = Breaker(in_a_row=3)
    failed(breaker, *"aaaaaaaa")
    assert breaker.state(0) == "closed"


@pytest.mark.parametrize("answer", ["OK", "PERMANENT", "AUTH", "GONE"])
def test_an_answer_ends_the_row(answer: Class) -> None:
    breaker = Breaker(in_a_row=3)
    failed(breaker, "a", "b")
    breaker.took("c", answer, 0)
    failed(breaker, "a", "b")
    assert breaker.state(0) == "closed"


def test_half_of_many_open_it_and_what_was_long_ago_does_not_count() -> None:
    breaker = Breaker(in_a_row=1000)
    for number in range(9):
        failed(breaker, f"k{number}")
        breaker.took("fine", "OK", 0)
    failed(breaker, "late", at_ms=61_000)
    assert breaker.state(61_000) == "closed"
    for number in range(10):
        failed(breaker, f"k{number}", at_ms=62_000)
        breaker.took("fine", "OK", 62_000)
    assert breaker.state(62_000) == "open"


def test_the_rest_doubles_to_ten_minutes_and_one_answer_ends_it() -> None:
    breaker = Breaker(in_a_row=2)
    failed(breaker, "a", "b")
    rests = []
    now_ms = 0
    for _ in range(6):
        assert breaker.open_until_ms is not None
        rests.append(breaker.open_until_ms - now_ms)
        now_ms = breaker.open_until_ms
        assert breaker.state(now_ms) == "half_open"
        assert not breaker.took("a", "AMBIGUOUS", now_ms)
    assert rests == [30_000, 60_000, 120_000, 240_000, 480_000, LONGEST_REST_MS]
    now_ms += LONGEST_REST_MS
    assert breaker.took("a", "OK", now_ms)
    assert breaker.state(now_ms) == "closed"


def test_attempts_count_until_it_opens() -> None:
    breaker = Breaker(in_a_row=2)
    assert [breaker.took(key, "TRANSIENT", 0) for key in "abab"] == [True, True, False, False]


def test_zero_never_opens() -> None:
    breaker = Breaker(in_a_row=0)
    failed(breaker, *"abcdefgh" * 10)
    assert breaker.state(0) == "closed"


# --- pace ----------------------------------------------------------------------------------------------


def test_tokens_let_no_more_than_the_rate_begin() -> None:
    pace = Pace(per_s=10, most=4)
    begun = [at_ms for at_ms in range(0, 3000, 10) if pace.wait_ms(at_ms) == 0]
    assert len(begun) == 10 + 29  # the bucket, then ten a second
    assert pace.wait_ms(3000) <= 100


def test_without_a_rate_nothing_waits() -> None:
    assert {Pace(per_s=0, most=4).wait_ms(0) for _ in range(100)} == {0}


def test_throttling_halves_and_a_minute_of_peace_adds_one() -> None:
    pace = Pace(per_s=0, most=8)
    found = []
    for at_ms in (0, 1_000, 6_000, 12_000, 18_000):
        pace.took("THROTTLED", 10, at_ms)
        found.append(pace.at_once)
    assert found == [4, 4, 2, 1, 1]
    for minute in range(1, 20):
        pace.took("OK", 10, 18_000 + minute * 60_000)
    assert pace.at_once == 8


def test_answers_that_take_twice_as_long_as_usual_halve() -> None:
    pace = Pace(per_s=0, most=8)
    for number in range(2 * ANSWERS):
        pace.took("OK", 300, number)
    assert pace.at_once == 8
    for number in range(ANSWERS):
        pace.took("OK", 900, 10_000 + number)
    assert pace.at_once == 4


def test_what_nobody_notices_does_not_halve() -> None:
    pace = Pace(per_s=0, most=8)
    for number in range(ANSWERS):
        pace.took("OK", 2, number)
    for number in range(ANSWERS):
        pace.took("OK", 40, 10_000 + number)
    assert pace.at_once == 8
