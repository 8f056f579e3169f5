from __future__ import annotations

import pytest

COLUMNS = ("tries", "lost", "doubled", "unrecorded", "invented", "changed", "crashed")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of all cases that were run."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    ran = [report for report in reports if getattr(report, "when", "") == "call"]
    rows = [row for report in ran for key, row in report.user_properties if key == "faults"]
    if not rows:
        return
    terminalreporter.section("the buffer's files under faults")
    terminalreporter.write_line(f"{'fault':<28}" + "".join(f"{name:>12}" for name in COLUMNS) + "  seeds")
    for row in rows:
        counts = "".join(f"{row[name]:>12}" for name in COLUMNS)
        terminalreporter.write_line(f"{row['fault']:<28}{counts}  {row['seeds']}")
