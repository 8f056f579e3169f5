"""Profiles, found by folder: adding a device model is adding a file.

A model's newest version is in `<vendor>-<model>.toml`; older ones that are still in use may stay beside it, in files
named `<vendor>-<model>@<version>.toml`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, cast

from firmware_configs import characteristics
from firmware_configs.adverts import BleProfile
from firmware_configs.characteristics import GattProfile
from firmware_configs.check import problems, problems_of_values
from firmware_configs.check_adverts import problems_of_adverts
from firmware_configs.host import HostProfile
from firmware_configs.messages import MqttProfile
from firmware_configs.schema import ModbusProfile
from protos.strict import DocumentError, convert

_NAME = re.compile(r"^(?P<stem>[a-z0-9]+(?:-[a-z0-9]+)*)@(?P<version>[1-9][0-9]*)$")

Profile = ModbusProfile | BleProfile | GattProfile | MqttProfile | HostProfile
P = TypeVar("P", ModbusProfile, BleProfile, GattProfile, MqttProfile, HostProfile)

FOLDERS: dict[type[Profile], str] = {
    ModbusProfile: "modbus",
    BleProfile: "ble",
    GattProfile: "gatt",
    MqttProfile: "mqtt",
    HostProfile: "host",
}


class ProfileError(ValueError):
    """A profile that isn't there or can't be used; the message says which, where and what is near."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found(Generic[P]):
    """One profile file. Either `profile`, or `problem`: what is wrong with it."""

    path: Path
    local: bool
    """Of this box, not shipped."""
    shadows: Path | None = None
    """The shipped file of the same name and version, which this one replaces."""
    profile: P | None = None
    problem: str = ""

    @property
    def name(self) -> str:
        return self.profile.name if self.profile is not None else self.path.stem


class Profiles:
    """The profiles below a folder (default: those shipped), and below one of this box's own, which go first.

    A local profile replaces the shipped one of the same name and version and leaves other versions alone. Files are
    read when asked for, and only once.
    """

    def __init__(self, folder: Path | None = None, *, local: Path | None = None) -> None:
        self._folders = [*([local] if local is not None else []), folder or Path(__file__).parent]
        self._local = local
        self._loaded: dict[Path, Profile] = {}

    def modbus(self, name: str) -> ModbusProfile:
        """The profile `vendor-model@version`. Raises ProfileError."""
        return self._named(name, ModbusProfile)

    def ble(self, name: str) -> BleProfile:
        """The profile `vendor-model@version`. Raises ProfileError."""
        return self._named(name, BleProfile)

    def gatt(self, name: str) -> GattProfile:
        """The profile `vendor-model@version`. Raises ProfileError."""
        return self._named(name, GattProfile)

    def mqtt(self, name: str) -> MqttProfile:
        """The profile `vendor-model@version`. Raises ProfileError."""
        return self._named(name, MqttProfile)

    def host(self, name: str) -> HostProfile:
        """The profile `vendor-model@version`. Raises ProfileError."""
        return self._named(name, HostProfile)

    def all_modbus(self) -> Iterator[ModbusProfile]:
        """Every profile by name. Raises ProfileError at the first that can't be used."""
        return self._all(ModbusProfile)

    def all_ble(self) -> Iterator[BleProfile]:
        """Every profile by name. Raises ProfileError at the first that can't be used."""
        return self._all(BleProfile)

    def all_gatt(self) -> Iterator[GattProfile]:
        """Every profile by name. Raises ProfileError at the first that can't be used."""
        return self._all(GattProfile)

    def all_mqtt(self) -> Iterator[MqttProfile]:
        """Every profile by name. Raises ProfileError at the first that can't be used."""
        return self._all(MqttProfile)

    def all_host(self) -> Iterator[HostProfile]:
        """Every profile by name. Raises ProfileError at the first that can't be used."""
        return self._all(HostProfile)

    def found(self, kind: type[P]) -> list[Found[P]]:
        """Every file that counts, by name; what is shadowed is told by what shadows it. Never raises."""
        kept: dict[str, Found[P]] = {}
        for folder in reversed(self._folders):
            for path in sorted((folder / FOLDERS[kind]).glob("*.toml")):
                local = folder == self._local
                try:
                    profile = self._load(path, kind)
                except ProfileError as error:
                    kept[str(path)] = Found(path=path, local=local, problem=str(error))
                    continue
                before = kept.get(profile.name)
                shadows = before.path if before is not None and not before.local else None
                kept[profile.name] = Found(path=path, local=local, shadows=shadows, profile=profile)
        return sorted(kept.values(), key=lambda one: (_model(one.path), one.profile.version if one.profile else 0))

    def _all(self, kind: type[P]) -> Iterator[P]:
        for one in self.found(kind):
            if one.profile is None:
                raise ProfileError(one.problem)
            yield one.profile

    def _named(self, name: str, kind: type[P]) -> P:
        match = _NAME.match(name)
        if match is None:
            raise ProfileError(f"{name!r}: a profile is named vendor-model@version{self._near(name, kind)}")
        stem = match["stem"]
        if stem not in self._stems(kind):
            where = " or ".join(str(folder / FOLDERS[kind]) for folder in self._folders)
            raise ProfileError(f"{name!r}: no such profile in {where}{self._near(name, kind)}")
        for folder in self._folders:
            if (profile := self._versions(folder, stem, kind).get(name)) is not None:
                return profile
        raise ProfileError(f"{name!r}: version {match['version']} is not here; {self._meant(stem, kind)}")

    def _versions(self, folder: Path, stem: str, kind: type[P]) -> dict[str, P]:
        """Those of one model in one folder, by name. Raises ProfileError."""
        paths = [path for path in sorted((folder / FOLDERS[kind]).glob("*.toml")) if _model(path) == stem]
        versions: dict[str, P] = {}
        for profile, path in [(self._load(path, kind), path) for path in paths]:
            if profile.name in versions:
                raise ProfileError(f"{path.name}: another file beside it is {profile.name} too; raise one's version")
            versions[profile.name] = profile
        return versions

    def _stems(self, kind: type[P]) -> list[str]:
        return sorted({_model(path) for folder in self._folders for path in (folder / FOLDERS[kind]).glob("*.toml")})

    def _load(self, path: Path, kind: type[P]) -> P:
        if path not in self._loaded:
            self._loaded[path] = load(path, kind)
        return cast("P", self._loaded[path])

    def _near(self, name: str, kind: type[P]) -> str:
        close = difflib.get_close_matches(name.split("@", maxsplit=1)[0].lower(), self._stems(kind), n=1)
        return f"; {self._meant(close[0], kind)}" if close else ""

    def _meant(self, stem: str, kind: type[P]) -> str:
        """The versions of a model that are here, oldest first."""
        here = {p.version: name for folder in self._folders for name, p in self._versions(folder, stem, kind).items()}
        *others, newest = [here[version] for version in sorted(here)]
        return f"did you mean {', '.join(others)} or {newest}?" if others else f"did you mean {newest}?"


def _model(path: Path) -> str:
    """vendor-model of vendor-model.toml and of vendor-model@version.toml."""
    return path.stem.partition("@")[0]


def _mistakes(profile: Profile) -> list[str]:
    if isinstance(profile, ModbusProfile):
        return problems(profile)
    if isinstance(profile, GattProfile):
        return characteristics.problems(profile)
    found = problems_of_values(profile)
    return [*found, *problems_of_adverts(profile)] if isinstance(profile, BleProfile) else found


def load(path: Path, kind: type[P] = ModbusProfile) -> P:  # type: ignore[assignment]  # the oldest kind is the default
    """Read and check one file. Raises ProfileError with every mistake, each with its path."""
    try:
        profile = convert(tomllib.loads(path.read_text(encoding="utf-8")), kind)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, DocumentError) as error:
        raise ProfileError("\n".join(f"{path.name}: {line}" for line in str(error).splitlines())) from error
    found = _mistakes(profile)
    if path.stem not in {profile.name, f"{profile.vendor}-{profile.model}"}:
        also = f" or {profile.name}.toml" if "@" in path.stem else ""
        found.append(f"vendor, model: this file should be named {profile.vendor}-{profile.model}.toml{also}")
    if found:
        raise ProfileError("\n".join(f"{path.name}: {text}" for text in found))
    return profile
