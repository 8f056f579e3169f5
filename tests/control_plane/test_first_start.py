"""All hosts of one installation have the same keys, or don't start."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from control_plane.cli import main
from control_plane.errors import Misconfigured
from control_plane.first_start import same_keys
from control_plane.fleet.authority import Authority
from control_plane.projections import again
from control_plane.store.engine import Stores
from control_plane.store.tables import quarantine


def test_a_host_with_keys_of_its_own_is_refused_and_one_with_a_copy_is_not(stores: Stores, tmp_path: Path) -> None:
    first = Authority.open(tmp_path / "first")
    same_keys(stores.business, first)
    same_keys(stores.business, first)
    second = Authority.open(tmp_path / "second")
    with pytest.raises(Misconfigured, match=r"second/pki: ca_sha256 .* is not that of this installation"):
        same_keys(stores.business, second)
    shutil.copytree(tmp_path / "first" / "pki", tmp_path / "second" / "pki", dirs_exist_ok=True)
    same_keys(stores.business, Authority.open(tmp_path / "second"))


def test_the_key_that_signs_configuration_counts_too(stores: Stores, tmp_path: Path) -> None:
    same_keys(stores.business, Authority.open(tmp_path / "first"))
    (tmp_path / "first" / "pki" / "config.key").unlink()
    with pytest.raises(Misconfigured, match="config_key"):
        same_keys(stores.business, Authority.open(tmp_path / "first"))


def test_the_quarantine_is_listed_and_asked_for(
    sqlite_template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(sqlite_template, data)
    options = ["quarantine", "--data-dir", str(data)]
    assert main(options) == 0
    with Stores(f"sqlite:///{data}") as stores:
        with stores.telemetry.write() as connection:
            row = {"batch_id": 7, "gateway": "gw-aaaaaaaaaa", "error": "KeyError: 'a bug'", "at_ms": 1_700_000_000_000}
            connection.execute(quarantine.insert(), row)
        capsys.readouterr()
        assert main(options) == 1
        assert "7  gw-aaaaaaaaaa     2023-11-14T22:13:20+00:00  KeyError: 'a bug'" in capsys.readouterr().out
        assert main([*options, "--again"]) == 0
        with stores.telemetry.read() as connection:
            assert again.asked(connection) == 7
