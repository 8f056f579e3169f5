"""A live part of a page as an answer of the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response

from control_plane.web.live import Broadcaster, Subscription
from control_plane.web.visit import Visit


def stream(
    broadcaster: Broadcaster, subscription: Subscription, visit: Visit, *, key: object, render: Callable[[Any], str]
) -> Response:
    """An endless text/event-stream; ends with the process, with its reader, or after a quarter of an hour."""
    frames = broadcaster.frames(subscription, key=(key, visit.words.habits, visit.caller), render=render)
    response = Response(frames, content_type="text/event-stream")
    response.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
    response.call_on_close(subscription.close)
    return response
