"""Which calls of bleak's are advertisements. Pure.

bleak calls back whenever any property of a device changes (Connected, ServicesResolved …), with the last payload. An
advertisement brings new data or another signal strength: what one message did not bring is still the object that the
message before it left. (That it is a new object even if equal tells a repetition from such a phantom.)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

REMEMBERED = 500
DATA = ("ManufacturerData", "ServiceData")


class Phantoms:
    """Of one adapter. Devices with random addresses come and go: the oldest are forgotten."""

    def __init__(self, *, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._seen: OrderedDict[str, tuple[object, object, object]] = OrderedDict()

    def is_phantom(self, path: str, properties: Mapping[str, Any]) -> bool:
        """Whether this call brought nothing that only the radio can bring."""
        manufacturer, service = (properties.get(name) for name in DATA)
        rssi = properties.get("RSSI")
        before = self._seen.pop(path, None)
        self._seen[path] = manufacturer, service, rssi
        if len(self._seen) > self._limit:
            self._seen.popitem(last=False)
        if before is None:
            return rssi is None
        if before[0] is not manufacturer or before[1] is not service:
            return False
        return rssi is None or rssi == before[2]
