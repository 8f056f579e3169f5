"""Profiles, found by folder: adding a device model is adding a file."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar, cast

from firmware_configs.adverts import BleProfile
from firmware_configs.check import problems, problems_of_values
from firmware_configs.messages import MqttProfile
from firmware_configs.schema import ModbusProfile
from protos.strict import DocumentError, convert

_NAME = re.compile(r"^(?P<stem>[a-z0-9]+(?:-[a-z0-9]+)*)@(?P<version>[1-9][0-9]*)$")

Profile = ModbusProfile | BleProfile | MqttProfile
P = TypeVar("P", ModbusProfile, BleProfile, MqttProfile)

FOLDERS: dict[type[Profile], str] = {ModbusProfile: "modbus", BleProfile: "ble", MqttProfile: "mqtt"}


class ProfileError(ValueError):
    """A profile that isn't there or can't be used; the message says which, where and what is near."""


class Profiles:
    """The profiles below one folder (default: those shipped). Files are read when asked for, and only once."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(__file__).parent
        self._loaded: dict[tuple[str, str], Profile] = {}

    def modbus(self, name: str) -> ModbusProfile:
        """The profile `vendor-model@version`. Raises ProfileError."""
        return self._named(name, ModbusProfile)

    def ble(self, name: str) -> BleProfile:
        """The profile `vendor-model@version`. Raises ProfileError."""
        return self._named(name, BleProfile)

    def mqtt(self, name: str) -> MqttProfile:
        """The profile `vendor-model@version`. Raises ProfileError."""
        return self._named(name, MqttProfile)

    def all_modbus(self) -> Iterator[ModbusProfile]:
        """Every profile by name. Raises ProfileError at the first that can't be used."""
        return self._all(ModbusProfile)

    def all_ble(self) -> Iterator[BleProfile]:
        """Every profile by name. Raises ProfileError at the first that can't be used."""
        return self._all(BleProfile)

    def all_mqtt(self) -> Iterator[MqttProfile]:
        """Every profile by name. Raises ProfileError at the first that can't be used."""
        return self._all(MqttProfile)

    def _all(self, kind: type[P]) -> Iterator[P]:
        return (self._load(stem, kind) for stem in self._stems(kind))

    def _named(self, name: str, kind: type[P]) -> P:
        match = _NAME.match(name)
        if match is None:
            raise ProfileError(f"{name!r}: a profile is named vendor-model@version{self._near(name, kind)}")
        stem = match["stem"]
        if stem not in self._stems(kind):
            folder = self._folder / FOLDERS[kind]
            raise ProfileError(f"{name!r}: no such profile in {folder}{self._near(name, kind)}")
        profile = self._load(stem, kind)
        if profile.version != int(match["version"]):
            raise ProfileError(f"{name!r}: version {match['version']} is not here; did you mean {profile.name}?")
        return profile

    def _stems(self, kind: type[P]) -> list[str]:
        return sorted(path.stem for path in (self._folder / FOLDERS[kind]).glob("*.toml"))

    def _load(self, stem: str, kind: type[P]) -> P:
        key = (FOLDERS[kind], stem)
        if key not in self._loaded:
            self._loaded[key] = load(self._folder / FOLDERS[kind] / f"{stem}.toml", kind)
        return cast("P", self._loaded[key])

    def _near(self, name: str, kind: type[P]) -> str:
        close = difflib.get_close_matches(name.split("@", maxsplit=1)[0].lower(), self._stems(kind), n=1)
        return f"; did you mean {self._load(close[0], kind).name}?" if close else ""


def load(path: Path, kind: type[P] = ModbusProfile) -> P:  # type: ignore[assignment]  # the oldest kind is the default
    """Read and check one file. Raises ProfileError with every mistake, each with its path."""
    try:
        profile = convert(tomllib.loads(path.read_text(encoding="utf-8")), kind)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, DocumentError) as error:
        raise ProfileError(f"{path.name}: {error}") from error
    found = problems(profile) if isinstance(profile, ModbusProfile) else problems_of_values(profile)
    if path.stem != f"{profile.vendor}-{profile.model}":
        found.append(f"vendor, model: this file should be named {profile.vendor}-{profile.model}.toml")
    if found:
        raise ProfileError("\n".join(f"{path.name}: {text}" for text in found))
    return profile
