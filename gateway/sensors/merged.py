"""Which manufacturer data of a device is its newest. Pure.

BlueZ keeps an entry per company number and hands out all of them each time, unless every advertisement is asked for
(DuplicateData): then the old ones go first. Devices that write measurements where the company number should be leave
one entry per measurement, and nothing in them says which came last; only what changed does.
"""

from __future__ import annotations

from collections.abc import Mapping


class Merged:
    """Of one device on all adapters together."""

    def __init__(self) -> None:
        self._last: Mapping[int, bytes] = {}

    def newest(self, heard: Mapping[int, bytes]) -> Mapping[int, bytes] | None:
        """The one entry that is new, or the only one there is; empty: nothing changed; None: nobody can tell."""
        last, self._last = self._last, heard
        if len(heard) <= 1:
            return heard
        fresh = {company: data for company, data in heard.items() if last.get(company) != data}
        if len(fresh) > 1:
            return None
        return fresh
