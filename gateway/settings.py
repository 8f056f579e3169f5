"""The only reader of the gateway's configuration file. Everything wrong is said at once, each with its place."""

from __future__ import annotations

import tomllib
from pathlib import Path

from firmware_configs import document
from firmware_configs.loader import Profiles
from gateway.errors import Misconfigured
from protos.config import GatewayConfig, from_toml
from protos.strict import DocumentError


def load(path: Path, profiles: Profiles) -> GatewayConfig:
    """Read and check a hand-written document. Raises Misconfigured with one line per mistake."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Misconfigured(f"{path}: is not UTF-8 text: {error}") from error
    try:
        config = from_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"{path}: {error}") from error
    except DocumentError as error:
        raise Misconfigured("\n".join(f"{path}: {problem}" for problem in error.problems)) from error
    problems = disagreements(config, profiles)
    if problems:
        raise Misconfigured("\n".join(f"{path}: {problem}" for problem in problems))
    return config


def disagreements(config: GatewayConfig, profiles: Profiles) -> list[str]:
    """What the types can't say, one sentence per mistake, each starting with its path."""
    return list(document.disagreements(config, profiles))
