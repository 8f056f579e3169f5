from __future__ import annotations

import pytest

from tests import told

COLUMNS = ("tries", "lost", "doubled", "unrecorded", "invented", "changed", "crashed")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of all cases that were run."""
    rows = told.rows(terminalreporter, "faults")
    if not rows:
        return
    terminalreporter.section("the buffer's files under faults")
    terminalreporter.write_line(f"{'fault':<28}" + "".join(f"{name:>12}" for name in COLUMNS) + "  seeds")
    for row in rows:
        counts = "".join(f"{row[name]:>12}" for name in COLUMNS)
        terminalreporter.write_line(f"{row['fault']:<28}{counts}  {row['seeds']}")
