"""Lets streams in at a bounded rate, and tells the others when it is their turn.

After an outage a whole fleet comes at once. Each costs a handshake and a transaction: let in as they come, all of them
would wait for one another, give up and come again. A gateway that is sent away has its turn kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

STAYS_S = 1.0
"""Whose turn comes this soon waits on its connection."""
EARLY_S = 0.25
KEPT_S = 60.0
"""So long after its time a turn is still kept."""
MOST = 100_000


class Turnstile:
    """Pure but for its clock; of one event loop."""

    def __init__(self, *, per_s: float, monotonic_s: Callable[[], float]) -> None:
        self._every_s = 1 / per_s
        self._now = monotonic_s
        self._next_s = 0.0
        self._turns: OrderedDict[str, float] = OrderedDict()

    def wait_s(self, gateway: str) -> float:
        """How long until it is this gateway's turn; at most STAYS_S: it need not go away. A turn is taken by this."""
        now = self._now()
        turn = self._turns.pop(gateway, None)
        if turn is not None and now <= turn + KEPT_S:
            if turn - now > EARLY_S:
                self._keep(gateway, turn)
            return max(0.0, turn - now)
        turn = max(self._next_s, now)
        self._next_s = turn + self._every_s
        if turn - now > STAYS_S:
            self._keep(gateway, turn)
        return turn - now

    def _keep(self, gateway: str, turn: float) -> None:
        self._turns[gateway] = turn
        if len(self._turns) > MOST:
            self._turns.popitem(last=False)
