"""The sealed store's tables. A change raises SCHEMA_VERSION and needs a step from the version before."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.buffer import last_readings
from gateway.buffer.tally import STEP as LEDGER

PAGE_BYTES = 1024
"""A commit rewrites whole pages: a batch of 10 s and the five facts beside it cost half the writes of 4096."""
SCHEMA_VERSION = 5
_DICTIONARY = """
CREATE TABLE dictionary(number INTEGER PRIMARY KEY, id INTEGER NOT NULL UNIQUE, sha256 BLOB NOT NULL,
                        schema INTEGER NOT NULL, first_seq INTEGER NOT NULL, data BLOB NOT NULL);
"""
_EPOCHS = """
CREATE TABLE moved(lane INTEGER PRIMARY KEY, seqs BLOB NOT NULL, replaced BLOB NOT NULL, agreed INTEGER NOT NULL);
CREATE TABLE anchor(boot INTEGER NOT NULL, mono_ms INTEGER NOT NULL, fact BLOB NOT NULL, PRIMARY KEY(boot, mono_ms))
       WITHOUT ROWID;
"""
_THINNED = """
CREATE TABLE thinned(seq INTEGER PRIMARY KEY, first_seq INTEGER NOT NULL, stage INTEGER NOT NULL, lost INTEGER NOT NULL,
                     replaces BLOB NOT NULL);
CREATE INDEX thinned_age ON thinned(first_seq);
"""
"""Beside the batches of TELEMETRY, for what stands after a body in a row is behind all of its pages. first_seq: of the
oldest batch it stands for; stage: how far it is thinned; lost: readings that went, from it and what it replaces."""
TABLES = f"""
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE boot(ordinal INTEGER PRIMARY KEY, boot_id BLOB NOT NULL UNIQUE);
CREATE TABLE schema(number INTEGER PRIMARY KEY, body BLOB NOT NULL, shape BLOB NOT NULL);
CREATE TABLE lane(lane INTEGER PRIMARY KEY, next_seq INTEGER NOT NULL, acked BLOB NOT NULL,
                  complete_boot INTEGER NOT NULL, complete_mono_ms INTEGER NOT NULL,
                  agreed INTEGER NOT NULL DEFAULT 1);
CREATE TABLE batch(lane INTEGER NOT NULL, seq INTEGER NOT NULL, schema INTEGER NOT NULL, codec INTEGER NOT NULL,
                   dictionary INTEGER NOT NULL, count INTEGER NOT NULL, body_len INTEGER NOT NULL,
                   crc32 INTEGER NOT NULL,
                   complete_boot INTEGER NOT NULL, complete_mono_ms INTEGER NOT NULL, urgent_seq INTEGER NOT NULL,
                   sealed_ms INTEGER NOT NULL, cells BLOB NOT NULL DEFAULT x'', segment INTEGER NOT NULL DEFAULT 0,
                   body_at INTEGER NOT NULL DEFAULT 0, body_size INTEGER NOT NULL DEFAULT 0, body BLOB NOT NULL,
                   UNIQUE(lane, seq));
CREATE TABLE set_aside(lane INTEGER NOT NULL, seq INTEGER NOT NULL, reason TEXT NOT NULL, at_ms INTEGER NOT NULL,
                       count INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE(lane, seq));
{_DICTIONARY}{_EPOCHS}{_THINNED}{LEDGER};
{";".join(last_readings.TABLES)}"""
NEWER_FACTS = (("gaps_through", 0), ("predecessor", 0), ("session", 0), ("thinned_readings", 0))
"""Of `meta`: what the first files did not have."""
STEPS: Mapping[int, str | Callable[[last_readings.Run], None]] = {
    1: _DICTIONARY + "INSERT OR IGNORE INTO meta VALUES('gaps_through', 0)",
    2: _EPOCHS
    + _THINNED
    + """ALTER TABLE lane ADD COLUMN agreed INTEGER NOT NULL DEFAULT 1;
         ALTER TABLE last_reading ADD COLUMN in_hour INTEGER NOT NULL DEFAULT 0;
         ALTER TABLE batch ADD COLUMN cells BLOB NOT NULL DEFAULT x'';
         INSERT OR IGNORE INTO meta VALUES('predecessor', 0);
         INSERT OR IGNORE INTO meta VALUES('session', 0);
         INSERT OR IGNORE INTO meta VALUES('thinned_readings', 0);"""
    + LEDGER,
    3: """ALTER TABLE batch ADD COLUMN segment INTEGER NOT NULL DEFAULT 0;
          ALTER TABLE batch ADD COLUMN body_at INTEGER NOT NULL DEFAULT 0;
          ALTER TABLE batch ADD COLUMN body_size INTEGER NOT NULL DEFAULT 0""",
    4: last_readings.bring_up,
}
"""Version of a file that is there → statements, or a function inside their transaction, that bring it to the next."""
