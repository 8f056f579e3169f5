"""Which server, with which token: the command line, else the environment, else ~/.config/comboio/config.toml."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, NamedTuple


class UsageError(Exception):
    """The caller must say something else."""


class Profile(NamedTuple):
    server: str
    token: str
    ca: str | None


def chosen(*, server: str | None, token: str | None, ca: str | None) -> Profile:
    """Raises UsageError when the server or the token is nowhere said."""
    kept = _kept()
    found = {
        name: given or os.environ.get(f"COMBOIO_{name.upper()}") or kept.get(name)
        for name, given in {"server": server, "token": token, "ca": ca}.items()
    }
    for name in ("server", "token"):
        if not found[name]:
            raise UsageError(f"no {name}: give --{name}, set COMBOIO_{name.upper()}, or write it to {_path()}")
    return Profile(str(found["server"]), str(found["token"]), found["ca"])


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
