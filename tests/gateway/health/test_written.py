from __future__ import annotations

import pytest

from firmware_configs.units import unit
from gateway.health.written import counted, number


@pytest.mark.parametrize(
    ("value", "code", "shown"),
    [
        (4.5, "Cel", "4.5 °C"),
        (1_700_000_000.0, "kW.h", "1700000000 kWh"),
        (38.7223456, "deg", "38.722346 °"),
        (-9.5, "deg", "-9.5 °"),
        (0.00012, "W", "0.00012 W"),
        (7, "1", "7 "),
        (7, "{lqi}", "7 "),
        (-60, "dB{mW}", "-60 dBm"),
    ],
)
def test_a_value_is_written_as_people_do(value: float, code: str, shown: str) -> None:
    assert f"{number(value, code=code)} {unit(code)}" == shown


def test_one_is_not_several() -> None:
    assert [counted(0, "batch"), counted(1, "batch"), counted(2, "reading")] == ["0 batches", "1 batch", "2 readings"]
