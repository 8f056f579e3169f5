from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.effort import tries
from tests.faults.conftest import COLUMNS
from tests.faults.storage import shim

Laboratory = Callable[[str, Sequence[str]], list[dict[str, Any]]]
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def long() -> bool:
    """Every case there is, not a share of them."""
    return tries(1) > 1


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shim.compiler() is None:
        if os.environ.get("CI"):
            pytest.fail("there is no C compiler and CI is set")
        pytest.skip("there is no C compiler (apt-get install gcc libc6-dev)")
    return shim.build(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def laboratory(library: Path, tmp_path: Path, long: bool, request: pytest.FixtureRequest) -> Laboratory:
    """Runs cases of one kind, writes the table's row, and fails with what went wrong and how to see it again.

    COMBOIO_SEED=CASE runs that case alone.
    """

    def run(kind: str, cases: Sequence[str]) -> list[dict[str, Any]]:
        only = os.environ.get("COMBOIO_SEED", "")
        if kind != "count" and only and only.count("-") == cases[0].count("-"):
            cases = [only]
        shares = (os.cpu_count() or 1) if long and "PYTEST_XDIST_WORKER" not in os.environ else 1
        labs = [_start(library, tmp_path / f"lab-{n}", kind, cases[n::shares]) for n in range(shares)]
        results = [json.loads(line) for lab in labs for line in lab.communicate()[0].splitlines()]
        assert [lab.returncode for lab in labs] == [0] * shares
        assert len(results) == len(cases)
        if kind != "count":
            request.node.user_properties.append(("faults", _row(request.node.name, cases, results)))
        return results

    return run


def _start(library: Path, folder: Path, kind: str, cases: Sequence[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "tests.faults.storage.lab", str(folder), kind, *cases]
    return subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def _row(name: str, cases: Sequence[str], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    counts = {key: sum(len(one.get(key, ())) for one in results) for key in COLUMNS[1:-1]}
    crashed = sum("crashed" in one for one in results)
    fault = name.partition("[")[0].removeprefix("test_").replace("_", " ")
    return {"fault": fault, "tries": len(results), **counts, "crashed": crashed, "seeds": f"{cases[0]} … {cases[-1]}"}


def failures(results: Sequence[dict[str, Any]]) -> str:
    """What a test says when not all is well; empty if it is."""
    bad = [one for one in results if not one["good"]]
    lines = [f"{len(bad)} of {len(results)} cases failed"]
    for one in bad[:8]:
        facts = {key: one[key] for key in COLUMNS[1:] if one.get(key)}
        lines.append(f"COMBOIO_SEED={one['case']}: {one['what']}: {facts}")
    return "\n".join(lines) if bad else ""
