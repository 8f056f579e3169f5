"""Numbers and UCUM units as people write them."""

from __future__ import annotations

import re

UNITS = {
    "Cel": "°C",
    "[degF]": "°F",
    "deg": "°",
    "W.h": "Wh",
    "kW.h": "kWh",
    "V.A": "VA",
    "V.A{reactive}": "var",
    "kV.A.h": "kVAh",
    "kV.A.h{reactive}": "kvarh",
    "dB{mW}": "dBm",
    "m[g]": "mg",
    "m/s2": "m/s²",
    "Ohm": "Ω",
    "1": "",
}
ANNOTATION = re.compile(r"\{[^}]*\}")  # UCUM: words that mean nothing to a computer


def unit(code: str) -> str:
    """As written after a number; a code that people write as it is stays."""
    return UNITS[code] if code in UNITS else ANNOTATION.sub("", code)


def number(value: float, *, code: str = "", digits: int = 5) -> str:
    """To `digits` places, whole if it has more; coordinates to about a decimetre. Never with an exponent if large."""
    if code == "deg":
        return f"{value:.6f}".rstrip("0").rstrip(".")
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"


def counted(count: int, what: str) -> str:
    """`1 batch`, `2 batches`; English."""
    return f"{count} {what}" if count == 1 else f"{count} {what}{'es' if what.endswith('ch') else 's'}"
