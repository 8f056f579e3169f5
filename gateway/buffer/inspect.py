"""A look into a buffer from outside, also while the daemon runs: read-only, by its files."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from gateway.buffer.beside import looking
from protos import columns
from protos.comboio.v1 import batch_pb2 as pb
from protos.gaps import reason_word
from protos.ranges import Ranges

GAPS_SHOWN = 50
DICTIONARIES_SINCE = 2


def report(folder: Path) -> dict[str, Any]:
    """What is waiting, kept and lost. Raises Misconfigured when there is no readable buffer."""
    with looking(folder) as db:
        return _report(db, folder)


def _report(db: sqlite3.Connection, folder: Path) -> dict[str, Any]:
    facts = dict(db.execute("SELECT key, value FROM meta"))
    lanes = {}
    for lane, next_seq, acked in db.execute("SELECT lane, next_seq, acked FROM lane"):
        lanes[pb.Lane.Name(lane).lower()] = _lane(db, lane, next_seq, Ranges.unpack(acked))
    return {
        "epoch": f"{int(facts['epoch']):08x}",
        "opens": facts["opens"],
        "clean_stop": bool(facts["clean"]),
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "dropped_readings": facts["dropped_readings"],
        "thinned_readings": facts.get("thinned_readings", 0),
        "set_aside": [file.name for file in folder.iterdir() if ".damaged-" in file.name],
        "lanes": lanes,
        "dictionaries": _dictionaries(db),
        "gaps": _gaps(db),
    }


def _lane(db: sqlite3.Connection, lane: int, next_seq: int, acked: Ranges) -> dict[str, int]:
    waiting = readings = 0
    for first, last in acked.missing(1, next_seq - 1):
        query = "SELECT count(*), coalesce(sum(count), 0) FROM batch WHERE lane = ? AND seq BETWEEN ? AND ?"
        n, c = db.execute(query, (lane, first, last)).fetchone()
        waiting, readings = waiting + n, readings + c
    (held,) = db.execute("SELECT count(*) FROM batch WHERE lane = ?", (lane,)).fetchone()
    return {
        "sealed": next_seq - 1,
        "waiting_batches": waiting,
        "waiting_readings": readings,
        "kept_acknowledged": held - waiting,
    }


def _dictionaries(db: sqlite3.Connection) -> list[str]:
    """Names, the one in use first. A file that the daemon has not brought to this version yet has none."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version < DICTIONARIES_SINCE:
        return []
    return [f"{name:08x}" for (name,) in db.execute("SELECT id FROM dictionary ORDER BY number DESC")]


def _gaps(db: sqlite3.Connection) -> list[dict[str, Any]]:
    """The newest gap records still on the box."""
    declares = {number: pb.Declare.FromString(body) for number, body in db.execute("SELECT number, body FROM schema")}
    query = "SELECT schema, codec, body, body_len, count FROM batch WHERE lane = ? ORDER BY seq DESC LIMIT 500"
    found: list[dict[str, Any]] = []
    for schema, codec, body, body_len, count in db.execute(query, (pb.URGENT,)):
        declare = declares[schema]
        sensors = {group.id: group.sensor for group in declare.groups}
        plain = columns.unpack(codec, body, body_len=body_len)
        for _, event in columns.decode(columns.Schema.from_declare(declare), plain, count=count).events:
            if event.kind == pb.EVENT_GAP and len(found) < GAPS_SHOWN:
                found.append(_gap(pb.Gap.FromString(event.detail), sensors))
    return found


def _gap(gap: pb.Gap, sensors: dict[int, str]) -> dict[str, Any]:
    return {
        "sensor": sensors.get(gap.group, "all"),
        "reason": reason_word(gap.reason),
        "count": gap.count if gap.count_exact else None,
        "from": [gap.from_boot, gap.from_mono_ms],
        "to": [gap.to_boot, gap.to_mono_ms],
        "seqs": [[r.first, r.last] for r in gap.seqs],
    }


def text(found: dict[str, Any]) -> str:
    """For a person."""
    lines = [
        f"store {found['epoch']}, opened {found['opens']} times, {found['bytes'] / 1e6:.1f} MB on disk",
        "",
        f"{'lane':<12}{'sealed':>10}{'waiting':>10}{'readings':>12}{'kept':>8}",
    ]
    for name, lane in found["lanes"].items():
        lines.append(
            f"{name:<12}{lane['sealed']:>10}{lane['waiting_batches']:>10}"
            f"{lane['waiting_readings']:>12}{lane['kept_acknowledged']:>8}"
        )
    if found["dictionaries"]:
        lines += ["", f"batches are packed with dictionary {found['dictionaries'][0]}"]
    lines += ["", f"lost for want of space: {found['dropped_readings']} readings"]
    lines += [f"thinned out before: {found['thinned_readings']} readings"] if found["thinned_readings"] else []
    lines += [f"set aside: {name}" for name in found["set_aside"]]
    if found["gaps"]:
        lines += ["", "newest gaps:"]
    for gap in found["gaps"][:10]:
        count = "unknown how many" if gap["count"] is None else f"{gap['count']} lost"
        span_s = (gap["to"][1] - gap["from"][1]) / 1000 if gap["to"][0] == gap["from"][0] else None
        span = f" over {span_s:.1f} s" if span_s else ""
        lines.append(f"  {gap['sensor']:<16} {gap['reason']:<12} {count}{span}")
    return "\n".join(lines)
