"""What a device of any profile shows when nobody says otherwise: values that its quantities might have."""

from __future__ import annotations

from collections.abc import Mapping

from firmware_configs.schema import MOMENTS, ModbusProfile, Register
from gateway.simulators.signals import Signal, cold_box, constant, cycle, rising, sine

TYPICAL = {
    "V": (230.0, 4.0),
    "A": (8.0, 3.0),
    "W": (1800.0, 700.0),
    "kW": (18.0, 7.0),
    "V.A": (1900.0, 700.0),
    "V.A{reactive}": (250.0, 200.0),
    "kV.A": (19.0, 7.0),
    "kV.A{reactive}": (2.5, 2.0),
    "Hz": (50.0, 0.05),
    "%": (60.0, 8.0),
    "1": (0.9, 0.05),
    "deg": (18.0, 5.0),
    "kPa": (350.0, 40.0),
    "mbar": (1200.0, 50.0),
    "/min": (1500.0, 8.0),
    "m3": (0.3, 0.05),
    "uS/cm": (9000.0, 500.0),
    "[PSU]": (6.0, 0.5),
    "g/m3": (6.0, 1.0),
    "g/kg": (5.0, 1.0),
    "kJ/kg": (20.0, 5.0),
    "s": (1800.0, 600.0),
}
"""By unit: mean and amplitude."""
COUNTERS = {"kW.h": (120.0, 1.8), "W.h": (1200.0, 180.0), "A.h": (20.0, 0.5), "kV.A.h{reactive}": (15.0, 0.3)}
"""By unit: where it begins and what it rises by in an hour."""
VOLTAGES = (
    (("battery", "starter", "load", "alternator"), (26.4, 0.8)),
    (("pv",), (38.0, 8.0)),
    (("dc_link",), (565.0, 5.0)),
    (("_l1_l2", "_l2_l3", "_l3_l1"), (400.0, 6.0)),
)
"""By what is in their name."""
OTHERWISE = (100.0, 10.0)
EXPONENTS = {"A": -2, "V": -1, "Hz": -2, "1": -2, "%": -1}
"""By unit: what a register that scales others holds; 0 for the rest."""
IDENTITY = 4711.0
STATE_S = 300.0


def default_signals(profile: ModbusProfile, *, unit: int) -> dict[str, Signal]:
    """By quantity: a cold box that warms up every 30 minutes, mains that waver, counters that rise, states in turn."""
    registers = profile.expanded()
    signals = {one.quantity: _signal(one, column, unit) for column, one in enumerate(registers)}
    for one in registers:
        if one.scale_from is not None:
            signals[one.scale_from] = constant(EXPONENTS.get(one.unit, 0))
    return signals


def _signal(register: Register, column: int, unit: int) -> Signal:
    if register.identifying:
        return constant(IDENTITY)
    if register.labels:
        return cycle([float(number) for number in register.labels], every_s=STATE_S)
    if register.type == "bool":
        return cycle([0.0, 1.0], every_s=STATE_S + 10 * column)
    if register.type in MOMENTS:
        return rising(start=1_700_000_000_000.0, per_hour=3_600_000.0)
    if register.unit == "Cel":
        return cold_box(warm_ups=[(600.0 + 1800.0 * n, 420.0) for n in range(500)])
    if register.unit in COUNTERS:
        start, per_hour = COUNTERS[register.unit]
        return rising(start=_sign(register) * start, per_hour=_sign(register) * per_hour)
    mean, amplitude = _about(register)
    noise, seed = amplitude / 20, unit * 100 + column
    return sine(mean=mean, amplitude=amplitude, period_s=300.0 + 10 * column, noise=noise, seed=seed)


def _about(register: Register) -> tuple[float, float]:
    mean, amplitude = TYPICAL.get(register.unit, OTHERWISE)
    if register.unit == "V":
        named = (about for words, about in VOLTAGES if any(word in register.quantity for word in words))
        mean, amplitude = next(named, (mean, amplitude))
    return _sign(register) * mean, amplitude


def _sign(register: Register) -> float:
    """Of the values that a register can hold: those of one with a negative scale are all negative."""
    return -1.0 if register.scale is not None and register.scale < 0 else 1.0


def as_registers(profile: ModbusProfile, signals: Mapping[str, Signal]) -> dict[str, Signal]:
    """The same for `SimulatedUnit`, which knows one register at a time: what another scales, without that scale."""
    scaled = {one.quantity: one.scale_from for one in profile.expanded() if one.scale_from is not None}
    return {
        quantity: _divided(signal, signals[scaled[quantity]]) if quantity in scaled else signal
        for quantity, signal in signals.items()
    }


def _divided(signal: Signal, exponent: Signal) -> Signal:
    return lambda t_s: signal(t_s) / 10.0 ** round(exponent(t_s))
