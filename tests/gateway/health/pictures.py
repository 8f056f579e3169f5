"""Pictures of boxes that are well, and of one that is not."""

from __future__ import annotations

import msgspec

from gateway.health.picture import (
    BoxPicture,
    BufferPicture,
    ClockPicture,
    ConfigurationPicture,
    IdentityPicture,
    LinkPicture,
    PartPicture,
    Picture,
    SensorPicture,
    Value,
    judged,
)

HOSTILE = "<script>alert(1)</script>\x1b[2J\N{RIGHT-TO-LEFT OVERRIDE}\" onload='x'"


def sensor(name: str = "cooling", **changed: object) -> SensorPicture:
    made = SensorPicture(
        id=name,
        driver="modbus",
        asset="truck-17/box",
        heard=True,
        silent=False,
        problem=None,
        cause="",
        age_s=0.4,
        values=[
            Value(quantity="temperature", unit="Cel", value=4.5, quality="good"),
            Value(quantity="door_open", unit="", value=True, quality="good"),
        ],
        counters={"polls": 12, "failed_timeout": 1},
    )
    return msgspec.structs.replace(made, **changed)


def picture(*sensors: SensorPicture, **changed: object) -> Picture:
    made = Picture(
        taken_ms=1_700_000_000_000,
        sensors=list(sensors),
        link=LinkPicture(
            connected=True,
            connected_s=120.0,
            server="fleet.example.com:8444",
            connections=1,
            last_error="",
            waiting_batches=2,
            waiting_readings=2000,
            waiting_bytes=3000,
            oldest_waiting_s=9.0,
            acked_batches=40,
            sent_bytes=70_000,
        ),
        clock=ClockPicture(source="ntp", error_ms=3, anchor_age_s=30.0),
        buffer=BufferPicture(
            bytes=1_000_000,
            limit_bytes=1_024_000_000,
            unsealed_rows=3,
            dropped_readings=0,
            gaps_open=0,
            standstill_s=0.0,
            refused="",
        ),
        configuration=ConfigurationPicture(
            management="local", running_hash="ab" * 32, generation=0, phase="in_sync", last_rejection=""
        ),
        identity=IdentityPicture(gateway_id="gw-aaaaaaaaaa", name="truck 17", certificate_days_left=150.0),
        box=BoxPicture(
            version="0.1.0",
            boot=2,
            opens=5,
            uptime_s=3600.0,
            machine_uptime_s=90_000.0,
            cpu_percent=1.5,
            rss_bytes=80_000_000,
            disk_free_bytes=5_000_000_000,
        ),
        parts=[],
    )
    return judged(msgspec.structs.replace(made, **changed))


def troubled() -> Picture:
    """Everything wrong at once, in hostile words."""
    well = picture()
    broken = sensor(
        "probe",
        problem=HOSTILE,
        silent=True,
        asset=None,
        values=[
            Value(quantity="label", unit="", value=HOSTILE, quality="stale"),
            Value(quantity="temperature", unit="Cel", value=None, quality="bad_sensor"),
        ],
    )
    return picture(
        sensor(),
        broken,
        sensor("new", heard=False, age_s=None, values=[], counters={}),
        link=msgspec.structs.replace(well.link, connected=False, connected_s=None, last_error=HOSTILE),
        clock=ClockPicture(source=None, error_ms=None, anchor_age_s=None),
        buffer=msgspec.structs.replace(well.buffer, refused="store: disk is full", standstill_s=20.0),
        configuration=msgspec.structs.replace(well.configuration, phase="failed", last_rejection=HOSTILE),
        identity=IdentityPicture(gateway_id="", name=HOSTILE, certificate_days_left=None),
        parts=[PartPicture(name="broker hall", restarts=3, problem="connection refused")],
    )
