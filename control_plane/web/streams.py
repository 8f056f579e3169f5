"""A live part of a page as an answer of the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response

from control_plane.api.binding import EventStream
from control_plane.api.broadcast import Broadcaster, Subscription
from control_plane.web.visit import Visit


def stream(
    broadcaster: Broadcaster, subscription: Subscription, visit: Visit, *, key: object, render: Callable[[Any], str]
) -> Response:
    """An endless text/event-stream; ends with the process, with its reader, or after a quarter of an hour."""
    key = (key, visit.words.habits, visit.caller)
    frames = broadcaster.frames(subscription, key=key, render=render, still=visit.still)
    return EventStream(frames, subscription.close).response()
