from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests import told
from tests.control import ROOT
from tests.journeys.browser import AXE, FLAGS


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    missing = "no chromium on PATH (apt-get install chromium)" if not shutil.which("chromium") else ""
    if not AXE.exists():
        missing = f"{AXE.relative_to(ROOT)} is not there: run make setup"
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=list(FLAGS))
        yield browser
        browser.close()


KILLED = ("gateway", "ingest", "worker", "web", "link", "cut", "reads", "delivered", "in gaps", "lost", "invented")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of all rounds of kills that were run."""
    rows = told.rows(terminalreporter, "kills")
    if not rows:
        return
    terminalreporter.section("the whole road under random kills")
    terminalreporter.write_line(f"{'database':<12}" + "".join(f"{name:>10}" for name in KILLED) + "  seed")
    for row in rows:
        terminalreporter.write_line(_line(str(row["database"]), row) + f"  {row['seed']}")
    total = {name: sum(row[name] for row in rows) for name in KILLED}
    terminalreporter.write_line(_line("together", total))
    kills = sum(total[role] for role in ("gateway", "ingest", "worker", "web", "link"))
    terminalreporter.write_line(
        f"{kills} kills, {total['lost']} readings lost without a trace, {total['invented']} doubled or invented"
    )


def _line(name: str, row: dict[str, int]) -> str:
    return f"{name:<12}" + "".join(f"{row[column]:>10}" for column in KILLED)
