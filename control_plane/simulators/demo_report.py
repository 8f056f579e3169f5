"""One table a tired person can read."""

from __future__ import annotations

import time
from collections.abc import Sequence

from control_plane.simulators.balance import Account
from control_plane.simulators.expected import Verdict
from control_plane.simulators.scenario import say


def report(accounts: Sequence[Account], verdict: Verdict) -> None:
    say("")
    say(f"{'sensor':<26}{'measured':>9}  ={'delivered':>11}  +{'in gaps':>9}")
    say("─" * 78)
    for one in accounts:
        said = "balanced" if one.balanced else "DOES NOT BALANCE"
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(one.gap_reasons.items()))
        say(f"{one.sensor:<26}{one.produced:>9}  ={one.delivered:>11}  +{one.in_gaps:>9}   {said}  {reasons}".rstrip())
        for text, times in (("lost without a trace", one.missing), ("never sent by the sensor", one.invented)):
            if times:
                say(f"    {len(times)} {text}, first at {time.strftime('%H:%M:%S', time.localtime(times[0] / 1000))}")
    say("")
    say(
        f"cold-chain excursions: {len(verdict.expected.sure)} happened. Final events: {verdict.made} made, "
        f"{verdict.delivered} delivered in {verdict.requests} requests, {verdict.effects} took effect at the ERP."
    )
    for problem in verdict.problems:
        say(f"    PROBLEM: {problem}")
    good = all(one.balanced for one in accounts) and not verdict.problems
    say("")
    say("Everything balances: nothing lost, nothing doubled, nothing invented." if good else "It does NOT balance.")
