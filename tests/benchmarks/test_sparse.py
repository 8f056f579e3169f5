"""The plan for a strewn map reads every tag, in a tenth of the requests at most."""

from __future__ import annotations

from benchmarks.gateway_sparse import LIMITS, TAGS, WIDEST_HOLE, figures, one_per_tag, sparse_map
from firmware_configs.budget import plan, poll_ms


def test_the_map_is_strewn_and_the_same_every_time() -> None:
    tags = sparse_map()
    assert tags == sparse_map()
    assert len({tag.address for tag in tags}) == len(tags) == TAGS
    ends = [one.address + one.width for one in tags]
    holes = [tag.address - end for end, tag in zip(ends, tags[1:], strict=False)]
    assert sum(0 < hole <= WIDEST_HOLE for hole in holes) > 50
    assert sum(hole > 1000 for hole in holes) > 5


def test_every_tag_is_read_in_a_tenth_of_the_requests() -> None:
    tags = sparse_map()
    requests = plan(tags, LIMITS)
    for tag in tags:
        assert any(
            one.address <= tag.address and tag.address + tag.width <= one.address + one.length for one in requests
        )
    assert 10 * len(requests) <= len(one_per_tag(tags))
    assert poll_ms(requests) < poll_ms(one_per_tag(tags)) / 5


def test_the_figure_says_how_many() -> None:
    (figure,) = figures()
    assert (figure.key, figure.value) == ("gateway.sparse_requests", len(plan(sparse_map(), LIMITS)))
