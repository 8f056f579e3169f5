from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import told
from tests.control import Up, running
from tests.faults.managed import SETTINGS
from tests.postgresql import Cluster

COLUMNS = ("tries", "lost", "doubled", "unrecorded", "invented", "changed", "crashed")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def up(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A control plane that manages configurations, one per database and module."""
    folder = tmp_path_factory.mktemp("control")
    (folder / "control.toml").write_text(SETTINGS)
    more: tuple[str, ...] = ()
    if request.param == "postgresql":
        server: Cluster = request.getfixturevalue("postgresql")
        more = ("--database", server.new_database())
    with running(folder, *more) as started:
        yield started


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
