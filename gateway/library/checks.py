"""`profiles check`: what is wrong with a profile file, and whether it agrees with its cases."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from firmware_configs.adverts import BleProfile
from firmware_configs.budget import plan
from firmware_configs.loader import FOLDERS, Profile, ProfileError, load
from firmware_configs.messages import MqttProfile
from firmware_configs.schema import ModbusProfile
from gateway.errors import Misconfigured
from gateway.library import advert_cases, mqtt_cases
from gateway.library import cases as running


def check(path: Path, *, cases: Path | None = None) -> dict[str, Any]:
    """What was found; `problems` is empty when the profile can be used and every case agrees.

    The folder a profile is in says its kind, elsewhere its first line; without either it is a Modbus profile. Cases are
    searched in `cases`, else where they usually are (`case_files`).
    """
    found: dict[str, Any] = {"file": str(path), "name": None, "cases": [], "problems": []}
    try:
        profile = _load(path)
    except ProfileError as error:
        return found | {"problems": str(error).splitlines()}
    found["name"] = profile.name
    if isinstance(profile, ModbusProfile):
        found["problems"] += _unplannable(profile)
    for case in case_files(path, profile, cases):
        found["cases"].append(str(case))
        found["problems"] += [f"{case.name}: {text}" for text in _of_case(case, profile)]
    return found


def _load(path: Path) -> Profile:
    """By the folder it is in; the text below the first line says it too: `#:schema ../mqtt.schema.json`."""
    kinds: dict[str, type[Profile]] = {folder: kind for kind, folder in FOLDERS.items()}
    kind = kinds.get(path.absolute().parent.name) or kinds.get(_schema_of(path), ModbusProfile)
    return load(path, kind)  # type: ignore[type-var]


def _schema_of(path: Path) -> str:
    """The kind that its first line names; empty where it names none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            first = file.readline()
    except OSError:
        return ""
    return Path(first.removeprefix("#:schema").strip()).name.removesuffix(".schema.json")


def _unplannable(profile: ModbusProfile) -> list[str]:
    try:
        plan(profile.expanded(), profile.limits, timing=profile.timing)
    except ValueError as error:
        return [f"no requests can read it: {error}"]
    return []


def case_files(path: Path, profile: Profile, folder: Path | None = None) -> list[Path]:
    """Cases of a profile: in `<folder>/<vendor>-<model>/`, or in `folder` itself.

    Without a folder: in `cases/` beside the profile, or in `tests/cases/<kind>/` of the checkout it is in.
    """
    stem = f"{profile.vendor}-{profile.model}"
    near = path.absolute().parent
    folders = (
        [folder / stem, folder]
        if folder is not None
        else [
            near / "cases" / stem,
            near / "cases",
            near.parent.parent / "tests" / "cases" / FOLDERS[type(profile)] / stem,
        ]
    )
    for one in folders:
        if files := [case for case in sorted(one.glob("*.toml")) if _is_of(case, stem)]:
            return files
    return []


def _is_of(case: Path, stem: str) -> bool:
    """One folder may hold the cases of several profiles; what can't be read is somebody's, and is told."""
    try:
        return _named(case) == stem
    except Misconfigured:
        return True


def _named(case: Path) -> str:
    """vendor-model. Raises Misconfigured."""
    try:
        return str(tomllib.loads(case.read_text(encoding="utf-8")).get("profile", "")).partition("@")[0]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Misconfigured(f"{case.name}: {error}") from error


def _of_case(case: Path, profile: Profile) -> list[str]:
    try:
        if isinstance(profile, MqttProfile):
            return list(mqtt_cases.disagreements(mqtt_cases.load(case), profile))
        if isinstance(profile, BleProfile):
            return list(advert_cases.disagreements(advert_cases.load(case), profile))
        if isinstance(profile, ModbusProfile):
            return list(running.disagreements(running.load(case), profile))
    except Misconfigured as error:
        return [line.removeprefix(f"{case.name}: ") for line in str(error).splitlines()]
    return []


def text(found: dict[str, Any]) -> str:
    """For a person."""
    if found["problems"]:
        many = len(found["problems"])
        return "\n".join([*found["problems"], f"{many} problem{'s' * (many > 1)}."])
    many = len(found["cases"])
    ran = f"{many} case{'s' * (many != 1)} agree{'s' * (many == 1)}" if many else "it has no case yet"
    return f"{found['file']}: {found['name']} is good; {ran}."
