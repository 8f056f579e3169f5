"""Profiles, found by folder: adding a device model is adding a file."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from firmware_configs.check import problems
from firmware_configs.schema import ModbusProfile
from protos.strict import DocumentError, convert

_NAME = re.compile(r"^(?P<stem>[a-z0-9]+(?:-[a-z0-9]+)*)@(?P<version>[1-9][0-9]*)$")


class ProfileError(ValueError):
    """A profile that isn't there or can't be used; the message says which, where and what is near."""


class Profiles:
    """The profiles below one folder (default: those shipped). Files are read when asked for, and only once."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(__file__).parent
        self._loaded: dict[str, ModbusProfile] = {}

    def modbus(self, name: str) -> ModbusProfile:
        """The profile `vendor-model@version`. Raises ProfileError."""
        match = _NAME.match(name)
        if match is None:
            raise ProfileError(f"{name!r}: a profile is named vendor-model@version{self._near(name)}")
        stem = match["stem"]
        if stem not in self._stems():
            raise ProfileError(f"{name!r}: no such profile in {self._folder / 'modbus'}{self._near(name)}")
        profile = self._load(stem)
        if profile.version != int(match["version"]):
            raise ProfileError(f"{name!r}: version {match['version']} is not here; did you mean {profile.name}?")
        return profile

    def all_modbus(self) -> Iterator[ModbusProfile]:
        """Every profile by name. Raises ProfileError at the first that can't be used."""
        for stem in self._stems():
            yield self._load(stem)

    def _stems(self) -> list[str]:
        return sorted(path.stem for path in (self._folder / "modbus").glob("*.toml"))

    def _load(self, stem: str) -> ModbusProfile:
        if stem not in self._loaded:
            self._loaded[stem] = load(self._folder / "modbus" / f"{stem}.toml")
        return self._loaded[stem]

    def _near(self, name: str) -> str:
        close = difflib.get_close_matches(name.split("@", maxsplit=1)[0].lower(), self._stems(), n=1)
        return f"; did you mean {self._load(close[0]).name}?" if close else ""


def load(path: Path) -> ModbusProfile:
    """Read and check one file. Raises ProfileError with every mistake, each with its path."""
    try:
        profile = convert(tomllib.loads(path.read_text(encoding="utf-8")), ModbusProfile)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, DocumentError) as error:
        raise ProfileError(f"{path.name}: {error}") from error
    found = problems(profile)
    if path.stem != f"{profile.vendor}-{profile.model}":
        found.append(f"vendor, model: this file should be named {profile.vendor}-{profile.model}.toml")
    if found:
        raise ProfileError("\n".join(f"{path.name}: {text}" for text in found))
    return profile
