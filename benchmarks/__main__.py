"""`python -m benchmarks [--only WORD]`: every figure as `key value unit`; WORD is the first word of its key."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from importlib import import_module

from benchmarks.figures import Figure

# First word of the keys → where they are made. Strings, so that a group's needs are imported only when it runs.
GROUPS = {
    "wire": "benchmarks.wire:figures",
    "codec": "benchmarks.codec:figures",
    "control": "benchmarks.cold_start:figures",
    "fleet": "benchmarks.fleet_list:figures",
    "ingest": "benchmarks.ingest:figures",
    "gateway": "benchmarks.gateway:figures",
    "store": "benchmarks.history:store",
    "query": "benchmarks.history:query",
    "relay": "benchmarks.relay:figures",
    "web": "benchmarks.web:figures",
}


def resolve(target: str) -> Callable[[], Iterable[Figure]]:
    module, name = target.split(":")
    function: Callable[[], Iterable[Figure]] = getattr(import_module(module), name)
    return function


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="WORD", choices=sorted(GROUPS), help="one of: %(choices)s")
    only = parser.parse_args().only
    for word, target in GROUPS.items():
        if only in (None, word):
            for figure in resolve(target)():
                sys.stdout.write(f"{figure}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
