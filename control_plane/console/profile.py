"""Which server, with which token: the command line, else the environment, else ~/.config/comboio/config.toml."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class UsageError(Exception):
    """The caller must say something else."""


class Profile(NamedTuple):
    server: str
    token: str
    ca: str | None


def chosen(*, server: str | None, token: str | None, ca: str | None, anonymous: bool = False) -> Profile:
    """Raises UsageError when the server is nowhere said, or the token, which who is `anonymous` does not need."""
    kept = _kept()
    found = {
        name: given or os.environ.get(f"COMBOIO_{name.upper()}") or kept.get(name)
        for name, given in {"server": server, "token": token, "ca": ca}.items()
    }
    if not found["server"]:
        raise UsageError("no server: give --server, set COMBOIO_SERVER, or log in: comboio login --server URL")
    if not found["token"] and not anonymous:
        raise UsageError("no token: log in (comboio login), give --token or set COMBOIO_TOKEN")
    return Profile(str(found["server"]), str(found["token"] or ""), found["ca"])


def keep(profile: Profile, token: str) -> None:
    """Write server, CA and token where only this user can read them; whole or not at all."""
    ca = None if profile.ca is None else str(Path(profile.ca).absolute())
    _write({"server": profile.server, "token": token, "ca": ca})


def forget() -> None:
    """The token; the server stays known."""
    kept = _kept()
    if "token" in kept:
        _write({name: str(value) for name, value in kept.items() if name != "token"})


def _write(values: Mapping[str, str | None]) -> None:
    target = _path()
    target.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items() if value is not None)
    fresh = target.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(target)


def _path() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "comboio" / "config.toml"


def _kept() -> dict[str, Any]:
    try:
        return tomllib.loads(_path().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{_path()}: {error}") from None
