"""comboio readings export: a file, as it comes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from control_plane.console.client import Client
from control_plane.console.profile import UsageError

WORD = "export"
"""Stands where a series would; none is called that: they have slashes."""


def add(readings: argparse.ArgumentParser) -> None:
    readings.add_argument("--out", metavar="FILE", help="export: where to; its ending may say the format")
    readings.add_argument("--format", choices=("csv", "parquet"), help="export: default csv")


def export(client: Client, options: Any) -> Any:
    """Write what is asked for to --out, or to standard output. A file is there whole or not at all."""
    series = options.series[1:]
    if not series:
        raise UsageError("say which series: comboio readings export gateway/sensor/quantity …")
    form = options.format or ("parquet" if str(options.out or "").endswith(".parquet") else "csv")
    asked = {"series": series, "from": options.start, "to": options.end, "format": form}
    if options.out is None:
        if form == "parquet":
            raise UsageError("a Parquet file needs --out FILE")
        _, gone = client.download("/readings/export", sys.stdout.buffer, **asked)
        _warn(gone)
        return None
    part = Path(f"{options.out}.part")
    try:
        with part.open("wb") as file:
            size, gone = client.download("/readings/export", file, **asked)
        part.replace(options.out)
    except OSError as error:
        raise UsageError(f"--out {options.out}: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
    _warn(gone)
    return {"file": str(options.out), "bytes": size} | ({"not_kept_before": gone} if gone else {})


def _warn(gone: str | None) -> None:
    if gone:
        print(f"comboio: readings that came before {gone} are not kept any more", file=sys.stderr)
