"""Secrets are files that only their owner can read; a configuration document names them and never holds them."""

from __future__ import annotations

import stat
from pathlib import Path

from gateway.errors import Misconfigured


def read(path: str, *, setting: str) -> str:
    """The file's text without the white space around it. Raises Misconfigured naming `setting`."""
    try:
        mode = Path(path).stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise Misconfigured(f"{setting}: {path} can be read by others; do: chmod 600 {path}")
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise Misconfigured(f"{setting}: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Misconfigured(f"{setting}: {path} isn't text") from error
