"""Several versions of one model side by side, and the profiles of a box beside those shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from firmware_configs.loader import ProfileError, Profiles
from firmware_configs.schema import ModbusProfile

GOOD = """
vendor = "acme"
model = "probe"
version = {version}
description = "{what}"
[[sources]]
id = "manual"
title = "the manual"
[[register]]
quantity = "temperature"
function = "input"
address = 1
type = "i16"
source = "manual, table 1"
"""


def write(folder: Path, name: str, *, version: int, what: str = "x") -> Path:
    path = folder / "modbus" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(GOOD.format(version=version, what=what))
    return path


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    write(tmp_path / "shipped", "acme-probe", version=3)
    write(tmp_path / "shipped", "acme-probe@1", version=1)
    return tmp_path / "shipped"


@pytest.fixture
def local(tmp_path: Path) -> Path:
    return tmp_path / "local"


def test_two_versions_of_a_model_stand_side_by_side(shipped: Path) -> None:
    profiles = Profiles(shipped)
    assert [profiles.modbus(f"acme-probe@{n}").version for n in (1, 3)] == [1, 3]
    assert [profile.name for profile in profiles.all_modbus()] == ["acme-probe@1", "acme-probe@3"]


def test_a_missing_version_says_which_are_here(shipped: Path) -> None:
    with pytest.raises(ProfileError, match="version 2 is not here; did you mean acme-probe@1 or acme-probe@3"):
        Profiles(shipped).modbus("acme-probe@2")


def test_a_file_whose_name_says_another_version_is_refused(shipped: Path) -> None:
    write(shipped, "acme-probe@2", version=4)
    with pytest.raises(ProfileError, match=r"should be named acme-probe\.toml or acme-probe@4\.toml"):
        Profiles(shipped).modbus("acme-probe@4")


def test_two_files_of_one_version_are_refused(shipped: Path) -> None:
    write(shipped, "acme-probe@3", version=3)
    with pytest.raises(ProfileError, match="another file beside it is acme-probe@3 too"):
        Profiles(shipped).modbus("acme-probe@3")


def test_a_local_profile_replaces_the_shipped_one_of_its_name_and_version(shipped: Path, local: Path) -> None:
    mine = write(local, "acme-probe", version=3, what="mine")
    profiles = Profiles(shipped, local=local)
    assert profiles.modbus("acme-probe@3").description == "mine"
    assert profiles.modbus("acme-probe@1").description == "x"
    (found,) = [one for one in profiles.found(ModbusProfile) if one.local]
    assert (found.path, found.shadows) == (mine, shipped / "modbus" / "acme-probe.toml")


def test_a_local_profile_of_another_version_leaves_the_shipped_ones_alone(shipped: Path, local: Path) -> None:
    write(local, "acme-probe", version=4)
    profiles = Profiles(shipped, local=local)
    assert [one.name for one in profiles.found(ModbusProfile)] == ["acme-probe@1", "acme-probe@3", "acme-probe@4"]
    with pytest.raises(ProfileError, match="acme-probe@1, acme-probe@3 or acme-probe@4"):
        profiles.modbus("acme-probe@9")


def test_a_broken_local_file_is_told_and_not_silently_passed_over(shipped: Path, local: Path) -> None:
    write(local, "acme-probe", version=3).write_text("version = ")
    profiles = Profiles(shipped, local=local)
    with pytest.raises(ProfileError, match=r"acme-probe\.toml: "):
        profiles.modbus("acme-probe@3")
    assert [one.name for one in profiles.found(ModbusProfile) if one.problem] == ["acme-probe"]


def test_a_folder_that_is_not_there_has_no_profiles(shipped: Path, tmp_path: Path) -> None:
    assert Profiles(shipped, local=tmp_path / "none").modbus("acme-probe@3").version == 3
