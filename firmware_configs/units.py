"""UCUM units as people write them, the same on a box's page, on its command line and in the control plane."""

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
    "kV.A": "kVA",
    "kV.A{reactive}": "kvar",
    "kV.A.h": "kVAh",
    "kV.A.h{reactive}": "kvarh",
    "dB{mW}": "dBm",
    "m[g]": "mg",
    "m/s2": "m/s²",
    "Ohm": "Ω",
    "A.h": "Ah",
    "m3": "m³",
    "g/m3": "g/m³",
    "uS/cm": "µS/cm",
    "[PSU]": "PSU",
    "/min": "min⁻¹",
    "1": "",
}
ANNOTATION = re.compile(r"\{[^}]*\}")  # UCUM: words that mean nothing to a computer


def unit(code: str) -> str:
    """As written after a number; a code that people write as it is stays."""
    return UNITS[code] if code in UNITS else ANNOTATION.sub("", code)
