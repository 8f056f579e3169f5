from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from control_plane.simulators import expected
from control_plane.simulators.balance import Account
from control_plane.simulators.scenario import Box, Installation
from control_plane.simulators.sources import Device
from tests.effort import tries
from tests.journeys.disturbances import ROLES, SIXTY, TWENTY, Disturbances

LONG = tries(1) > 1
"""Then ten rounds of fifty kills on each database: a thousand."""
RULE = expected.Rule(high=8.0, hysteresis=0.5, open_after_ms=2000, close_after_ms=2000, gap_ms=8000)
SETTINGS = """\
[ingest]
batch_interval_s = 0.4
[[rules.cold_chain]]
name = "journey"
low = 2.0
high = 8.0
hysteresis = 0.5
open_after_s = 2.0
close_after_s = 2.0
gap_s = 8.0
hold_max_s = 120.0
"""
SLACK_MS = 400  # two reads of the cargo's temperature
# What a kill may cost: 250 ms, and the time the device's answer takes to become a row on a loaded machine.
UNWRITTEN_MS = 250 + 200


def _box(name: str, folder: Path) -> Box:
    curve = folder / "air.csv"
    if not curve.exists():
        lines = ["ts_ms,air"]
        for step in range(0, 600_000, 200):
            inside = step % 20_000
            lines.append(
                f"{step},{(9.0 + inside / 10_000) if 7_000 < inside < 13_000 else (4.0 + inside / 40_000):.2f}"
            )
        curve.write_text("\n".join(lines) + "\n")
    return Box(
        name,
        (
            Device(sensor="counter", profile="comboio-counter@1", every_s=0.1, counting=True),
            Device(
                sensor="cargo",
                profile="xy-md02@1",
                every_s=0.2,
                signals=(f"temperature={curve}:air",),
                cargo="temperature",
            ),
        ),
        batch_interval_s=0.4,
    )


@pytest.mark.journey
@pytest.mark.timeout(900 if LONG else 300)
@pytest.mark.parametrize("round_", range(tries(1)))
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_kills_lose_nothing_double_nothing_and_invent_nothing(
    kind: str,
    round_: int,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    database = None
    if kind == "postgresql":
        database = request.getfixturevalue("postgresql").new_database()
    seed = int(os.environ.get("COMBOIO_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
    print(f"COMBOIO_SEED={seed}")
    plan = SIXTY if LONG else TWENTY
    with Installation(tmp_path, database=database, settings=SETTINGS) as here:
        here.start()
        for name in ("north", "south"):
            here.add(_box(name, tmp_path))
        here.behave(fail="after_commit", **{"for": 1})
        disturbed = Disturbances(here, seed, plan)
        disturbed.run()
        here.stop_devices()
        accounts = here.settle(timeout_s=120 if LONG else 45)
        record_property("kills", _row(kind, seed, disturbed, accounts))
        for one in accounts:
            assert one.produced > 100, f"{one.sensor}: hardly any load"
            assert not one.missing, f"{one.sensor}: {len(one.missing)} reads lost without a trace, seed {seed}"
            assert not one.invented, f"{one.sensor}: {len(one.invented)} doubled or invented, seed {seed}"
        assert min(disturbed.kills[role] for role in ROLES) >= 3, disturbed.kills
        assert disturbed.kills.total() + disturbed.cuts == sum(plan.values()) + plan["twice"]
        for box in here.boxes:
            _lost_only_what_was_not_written(here, box, seed)
        verdict = _events(here)
        assert not verdict.problems, f"seed {seed}: {verdict.problems}"
        assert verdict.effects == verdict.made >= 2
        assert verdict.requests > verdict.effects, (
            "no delivery was ever repeated: the reply that was lost tested nothing"
        )


def _row(kind: str, seed: int, disturbed: Disturbances, accounts: list[Account]) -> dict[str, object]:
    """What the table at the end adds up."""
    return {
        "database": kind,
        "seed": seed,
        **{role: disturbed.kills[role] for role in ROLES},
        "cut": disturbed.cuts,
        "reads": sum(one.produced for one in accounts),
        "delivered": sum(one.delivered for one in accounts),
        "in gaps": sum(one.in_gaps for one in accounts),
        "lost": sum(len(one.missing) for one in accounts),
        "invented": sum(len(one.invented) for one in accounts),
    }


def _lost_only_what_was_not_written(here: Installation, box: Box, seed: int) -> None:
    """Kills of other processes lose none; a kill of the gateway, what was answered in the last 250 ms."""
    for one in here.accounts(box):
        for at in one.lost_at_ms:
            near = any(-UNWRITTEN_MS <= at - kill <= 500 for kill in box.kills_ms)
            assert near, f"{one.sensor}: a read was lost at {at}, kills at {box.kills_ms}, seed {seed}"


def _events(here: Installation) -> expected.Verdict:
    want = expected.Expected()
    for box in here.boxes:
        for quantities, reads in here.kept(box, "cargo").items():
            column = quantities.index("temperature")
            want = want.also(expected.excursions(RULE, reads, column, slack_ms=SLACK_MS))
    assert want.sure, "the signal never left its limits: nothing was tested"
    end = time.monotonic() + 45
    while True:
        events = here.get("/events", limit=1000)["items"]
        deliveries = here.get("/deliveries", limit=1000)["items"]
        verdict = expected.judge(want, events, deliveries, here.received())
        if not verdict.problems or time.monotonic() > end:
            return verdict
        time.sleep(1.0)
