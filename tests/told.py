"""What tests recorded of themselves, for the tables at the end of a run."""

from __future__ import annotations

from typing import Any

import pytest


def rows(terminalreporter: pytest.TerminalReporter, key: str) -> list[Any]:
    """Every `record_property(key, row)` of the tests that were run."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    ran = [report for report in reports if getattr(report, "when", "") == "call"]
    return [row for report in ran for name, row in report.user_properties if name == key]
