from __future__ import annotations

from typing import Any, cast

from control_plane.ingest.service import DRAIN_RETURN_MS, RETURN_PER_S, LinkService
from control_plane.ingest.session import Goodbye
from protos.comboio.v1 import link_pb2 as wire


class Away:
    """A stream that remembers how it was ended."""

    def __init__(self) -> None:
        self.goodbye = wire.Goodbye()

    def end(self, goodbye: Goodbye) -> None:
        self.goodbye = goodbye.message


def test_a_fleet_sent_away_is_asked_back_no_faster_than_it_can_be_let_in() -> None:
    anything = cast("Any", None)
    service = LinkService(
        journal=anything, writer=anything, clock=anything, limits=anything, pace=anything, admit=lambda *_: None
    )
    streams = {f"gw-{number}": Away() for number in range(2 * RETURN_PER_S)}
    cast("dict[str, Away]", service.sessions).update(streams)
    service.drain()
    waits = [stream.goodbye.return_after_ms for stream in streams.values()]
    assert (min(waits), max(waits)) == (DRAIN_RETURN_MS, DRAIN_RETURN_MS + 1996)
    assert sum(wait < DRAIN_RETURN_MS + 1000 for wait in waits) == RETURN_PER_S
