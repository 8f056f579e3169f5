"""Every table, one MetaData per store. One SQL for SQLite and PostgreSQL.

Times are integer milliseconds since 1970 (`*_ms`), or a boot's monotonic milliseconds (`*_mono_ms`). What the wire
carries as uint32 is a BigInteger here: PostgreSQL's INTEGER ends at 2^31.
No transaction spans two stores; each projection keeps its cursor in the store it writes.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

NAMING = {
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}
journal = MetaData(naming_convention=NAMING)
telemetry = MetaData(naming_convention=NAMING)
business = MetaData(naming_convention=NAMING)

BigKey = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts rows only for INTEGER PRIMARY KEY

# --- journal: written by ingest ----------------------------------------------------------------------

session = Table(
    "session",
    journal,
    Column("gateway", String(16), primary_key=True),
    Column("session", BigInteger, nullable=False),
    comment="The fencing token of a gateway's newest stream; checked in every journal transaction.",
)

hello = Table(
    "hello",
    journal,
    Column("id", BigKey, primary_key=True, autoincrement=True),
    Column("gateway", String(16), nullable=False),
    Column("session", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("opens", BigInteger, nullable=False),
    Column("run_id", LargeBinary, nullable=False),
    Column("boot", BigInteger, nullable=False),
    Column("boot_id", LargeBinary, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False, comment="the Hello as it came"),
    Column("why", Text, nullable=True, comment="why a new epoch was ordered; null: it was accepted"),
    Index(None, "gateway", "id"),
    Index(None, "gateway", "run_id"),
)

epoch = Table(
    "epoch",
    journal,
    Column("gateway", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("opens", BigInteger, nullable=False, comment="of the newest Hello that was accepted"),
    Column("run_id", LargeBinary, nullable=False),
    Column("boot_id", LargeBinary, nullable=False),
    Column("hello_id", BigInteger, nullable=False),
    Column("superseded_by", BigInteger, nullable=True, comment="the epoch whose Hello named this one as predecessor"),
    PrimaryKeyConstraint("gateway", "epoch"),
    comment="Which opening of each store the server goes on with.",
)

clone = Table(
    "clone",
    journal,
    Column("gateway", String(16), primary_key=True),
    Column("since_ms", BigInteger, nullable=False),
    Column("why", Text, nullable=False),
    Column("hello_id", BigInteger, nullable=False, comment="Hellos up to this one prove nothing any more"),
    Column("released_ms", BigInteger, nullable=True, comment="null: nothing is taken of this gateway"),
    comment="Gateways of which two boxes were seen to live.",
)

known = Table(
    "known",
    journal,
    Column("id", BigKey, primary_key=True, autoincrement=True),
    Column("gateway", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("lane", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("of_epoch", BigInteger, nullable=False, comment="where its bytes are: journal.batch"),
    Column("of_seq", BigInteger, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    UniqueConstraint("gateway", "epoch", "lane", "seq"),
    comment="Batches that came again in another epoch: resolved there, and stored once.",
)

lane = Table(
    "lane",
    journal,
    Column("gateway", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("lane", Integer, nullable=False),
    Column("cum", BigInteger, nullable=False, comment="every seq <= cum is received or rejected"),
    Column("above", LargeBinary, nullable=False, comment="ranges above cum: pairs of little-endian uint64"),
    Column("max_seen", BigInteger, nullable=False),
    Column("session", BigInteger, nullable=False, server_default="0", comment="of the newest batch"),
    PrimaryKeyConstraint("gateway", "epoch", "lane"),
)

batch = Table(
    "batch",
    journal,
    Column("id", BigKey, primary_key=True, autoincrement=True),
    Column("gateway", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("lane", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("schema", BigInteger, nullable=False),
    Column("codec", Integer, nullable=False),
    Column("dictionary", BigInteger, nullable=False),
    Column("count", Integer, nullable=False),
    Column("body_len", Integer, nullable=False),
    Column("crc32", BigInteger, nullable=False),
    Column("complete_boot", BigInteger, nullable=False),
    Column("complete_mono_ms", BigInteger, nullable=False),
    Column("urgent_seq", BigInteger, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Column("extra", LargeBinary, nullable=True, comment="a Batch holding only `replaces` and `signature`"),
    Column("body", LargeBinary, nullable=False, comment="as carried"),
    UniqueConstraint("gateway", "epoch", "lane", "seq"),
)

declare = Table(
    "declare",
    journal,
    Column("gateway", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("schema", BigInteger, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False, comment="the Declare as it came; immutable"),
    PrimaryKeyConstraint("gateway", "epoch", "schema"),
)

dictionary = Table(
    "dictionary",
    journal,
    Column("number", BigKey, primary_key=True, autoincrement=True),
    Column("gateway", String(16), nullable=False),
    Column("id", BigInteger, nullable=False, comment="as batches name it: first 4 bytes of sha256, little-endian"),
    Column("sha256", LargeBinary, nullable=False),
    Column("schema", BigInteger, nullable=False),
    Column("batches", Integer, nullable=False, comment="it was trained on; 0: it came from the gateway"),
    Column("saving", Double, nullable=False, comment="share of their bytes saved when it was made"),
    Column("made_ms", BigInteger, nullable=False),
    Column("retired_ms", BigInteger, nullable=True, comment="when a newer one took over"),
    Column("data", LargeBinary, nullable=False),
    UniqueConstraint("gateway", "id"),
    comment="What batches are packed with. Never deleted: journalled batches name them.",
)

heartbeat = Table(
    "heartbeat",
    journal,
    Column("gateway", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("lane", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("complete_boot", BigInteger, nullable=False),
    Column("complete_mono_ms", BigInteger, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("gateway", "epoch", "lane"),
    Index(None, "received_ms"),
    comment="Completeness said on silence; the newest word per lane.",
)

reject = Table(
    "reject",
    journal,
    Column("gateway", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("lane", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("code", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("gateway", "epoch", "lane", "seq"),
    comment="Seqs refused for good: resolved, their bytes set aside on the gateway.",
)

conflict = Table(
    "conflict",
    journal,
    Column("id", BigKey, primary_key=True, autoincrement=True),
    Column("gateway", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("lane", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("crc32", BigInteger, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False, comment="the whole Batch"),
    UniqueConstraint("gateway", "epoch", "lane", "seq", "crc32"),
    comment="The same key with other content: both are kept.",
)

repeat = Table(
    "repeat",
    journal,
    Column("gateway", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("lane", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("times", BigInteger, nullable=False, comment="beside the first"),
    Column("received_ms", BigInteger, nullable=False, comment="the last time"),
    PrimaryKeyConstraint("gateway", "epoch", "lane", "seq"),
    comment="Batches that came again with the same content, and were stored once.",
)

presence = Table(
    "presence",
    journal,
    Column("gateway", String(16), primary_key=True),
    Column("session", BigInteger, nullable=False),
    Column("connected_ms", BigInteger, nullable=False),
    Column("heard_ms", BigInteger, nullable=False, comment="last message of any kind, to a few seconds"),
    Column("left_ms", BigInteger, nullable=True, comment="null while connected"),
    Column("version", Text, nullable=False, comment="of the gateway's program"),
    Column("heartbeat", LargeBinary, nullable=True, comment="the last Heartbeat as it came"),
    Column("running", LargeBinary, nullable=True, comment="the newest RunningConfig as it came"),
    Column("why", Text, nullable=True, comment="why the stream ended"),
    Column("server", Text, nullable=True, comment="the ingest process it is with"),
    Column("paced", Text, nullable=True, comment="why it is slowed down; null or empty: it is not"),
    comment="Who is connected and what they said last.",
)

config_offer = Table(
    "config_offer",
    journal,
    Column("gateway", String(16), primary_key=True),
    Column("session", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("offered_ms", BigInteger, nullable=False),
    comment="The newest configuration each gateway was offered.",
)

config_status = Table(
    "config_status",
    journal,
    Column("id", BigKey, primary_key=True, autoincrement=True),
    Column("gateway", String(16), nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("phase", Integer, nullable=False),
    Column("reason", Integer, nullable=False),
    Column("pointer", Text, nullable=False, comment="JSON pointer into the document"),
    Column("text", Text, nullable=False),
    Column("retry_at_ms", BigInteger, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Index(None, "gateway", "generation", "id"),
    comment="What gateways said became of an offer; a repetition is not a further row.",
)

effective_config = Table(
    "effective_config",
    journal,
    Column("gateway", String(16), primary_key=True),
    Column("pushed_hash", LargeBinary, nullable=False),
    Column("local_hash", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False, comment="canonical JSON"),
    Column("received_ms", BigInteger, nullable=False),
    comment="The document each gateway runs by, in its own words.",
)

_UNIT_COMMENT = "The tables into which another one is divided, each dropped as a whole: see store/units.py."


def _unit(metadata: MetaData) -> Table:
    return Table(
        "unit",
        metadata,
        Column("family", String(16), nullable=False, comment="the table that is divided"),
        Column("number", Integer, nullable=False, comment="0: what was there before it was divided; -1: evidence"),
        Column("level", Integer, nullable=False, comment="of rollups; else 0"),
        Column("kept_as", String(64), nullable=False, comment="slug of the group whose retention holds; empty: none"),
        Column("begins_ms", BigInteger, nullable=False),
        Column("ends_ms", BigInteger, nullable=True, comment="null: still written to"),
        Column("first_id", BigInteger, nullable=False, comment="no id below it is given out from then on"),
        PrimaryKeyConstraint("family", "number"),
        comment=_UNIT_COMMENT,
    )


journal_unit = _unit(journal)

# --- telemetry: written by the worker ----------------------------------------------------------------

PROJECTED = "telemetry"
"""The cursor by which batches were projected."""
cursor = Table(
    "cursor",
    telemetry,
    Column("name", String(64), primary_key=True),
    Column("position", BigInteger, nullable=False),
)

history = Table(
    "history",
    telemetry,
    Column("batch_id", BigInteger, primary_key=True, autoincrement=False, comment="journal.batch.id"),
    Column("gateway", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("boot", BigInteger, nullable=False),
    Column("schema", BigInteger, nullable=False),
    Column("first_mono_ms", BigInteger, nullable=False),
    Column("last_mono_ms", BigInteger, nullable=False),
    Column("groups", LargeBinary, nullable=False, comment="ids of the groups inside: little-endian uint32"),
    Column("chunk", BigInteger, nullable=True, comment="chunk.id that holds its readings too; null: not sealed yet"),
    Index(None, "gateway", "epoch", "boot", "last_mono_ms"),
    Index(
        "ix_history_unsealed",
        *("gateway", "epoch", "boot", "last_mono_ms", "first_mono_ms"),
        sqlite_where=text("chunk IS NULL"),
        postgresql_where=text("chunk IS NULL"),
    ),
    comment="Which batch holds which minutes. The readings stay in the batch as it came.",
)

chunk = Table(
    "chunk",
    telemetry,
    Column("id", BigKey, primary_key=True, autoincrement=True),
    Column("gateway", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("boot", BigInteger, nullable=False),
    Column("first_mono_ms", BigInteger, nullable=False),
    Column("last_mono_ms", BigInteger, nullable=False),
    Column("readings", BigInteger, nullable=False),
    Column("sealed_ms", BigInteger, nullable=False),
    Column("toc", LargeBinary, nullable=False, comment="see projections/chunk.py"),
    Column("body", LargeBinary, nullable=False),
    Index(None, "gateway", "epoch", "boot", "last_mono_ms", "first_mono_ms"),
    comment="The readings of one boot's hour, sealed column by column. What came late has a chunk of its own.",
)

rolled = Table(
    "rolled",
    telemetry,
    Column("gateway", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("boot", BigInteger, nullable=False),
    Column("chunk", BigInteger, nullable=False, comment="the rollups hold every chunk of the boot up to this one"),
    Column("points", Integer, nullable=False, comment="how many anchors"),
    Column("anchors", LargeBinary, nullable=False, comment="by which they were placed in time: their mono and wall ms"),
    PrimaryKeyConstraint("gateway", "epoch", "boot"),
    comment="What the rollups were made of. Where that has changed, readers go to the readings.",
)

rollup = Table(
    "rollup",
    telemetry,
    Column("gateway", String(16), nullable=False),
    Column(
        "level",
        Integer,
        nullable=False,
        comment="0: an hour's minutes, 1: a day's hours, 2: a month's quarters of days, 3: a month's days",
    ),
    Column("start_ms", BigInteger, nullable=False, comment="of the hour, the day or the month, UTC"),
    Column("body", LargeBinary, nullable=False, comment="see projections/rollup.py"),
    PrimaryKeyConstraint("gateway", "level", "start_ms"),
    comment="Count, least, greatest, sum and last per series and step of time.",
)

thinned = Table(
    "thinned",
    telemetry,
    Column("batch_id", BigInteger, primary_key=True, autoincrement=False, comment="journal.batch.id"),
    Column("gateway", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("replaces", LargeBinary, nullable=False, comment="ranges as in lane.above"),
    Column("held", BigInteger, nullable=False, comment="its readings that an original holds too"),
    Index(None, "gateway", "epoch", "seq"),
    comment="Batches that stand for others; where those are here too, they win.",
)

series = Table(
    "series",
    telemetry,
    Column("key", String(200), primary_key=True, comment="gateway/sensor/quantity"),
    Column("gateway", String(16), nullable=False),
    Column("sensor", String(64), nullable=False),
    Column("name", String(120), nullable=False),
    Column("unit", String(40), nullable=False),
    Column("type", Integer, nullable=False),
    Column("period_ms", BigInteger, nullable=False),
    Column("attrs", Text, nullable=False, comment="JSON object"),
    Column("epoch", BigInteger, nullable=False),
    Column("schema", BigInteger, nullable=False),
    Column("group_id", BigInteger, nullable=False),
    Column("series_id", BigInteger, nullable=False),
    Index(None, "gateway", "epoch", "series_id"),
    comment="The newest declaration of each series.",
)

state = Table(
    "state",
    telemetry,
    Column("gateway", String(16), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("readings", BigInteger, nullable=False, comment="decoded so far, all epochs"),
    Column("body", LargeBinary, nullable=False, comment="packed arrays, see projections/state.py"),
    Index(None, "gateway", "updated_ms", "readings"),  # a look at the whole fleet leaves the bodies alone
    comment="Latest value per series, one compact row per gateway.",
)

gateway_index = Table(
    "gateway_index",
    telemetry,
    Column("gateway", String(16), primary_key=True),
    Column("name", Text, nullable=False),
    Column("asset", Text, nullable=True),
    Column("hardware", Text, nullable=False),
    Column("serial", Text, nullable=False),
    Column("groups", Text, nullable=False, comment="slugs, a blank before and after each"),
    Column("words", Text, nullable=False, comment="name, id and asset in small letters: what is searched"),
    Column("created_ms", BigInteger, nullable=False),
    Column("retired_ms", BigInteger, nullable=True),
    Column("certificate_ms", BigInteger, nullable=True, comment="end of its newest certificate that is not revoked"),
    Column("configuration", String(16), nullable=True, comment="see fleet/status.py"),
    Column("generation", BigInteger, nullable=True, comment="of the configuration it runs"),
    Column("paused_ms", BigInteger, nullable=True),
    Column("expected_ms", BigInteger, nullable=True, comment="period of its quickest series"),
    Column("connected_ms", BigInteger, nullable=True, comment="null: it was never here"),
    Column("heard_ms", BigInteger, nullable=True),
    Column("left_ms", BigInteger, nullable=True),
    Column("left_why", Text, nullable=True),
    Column("version", Text, nullable=True, comment="of its program"),
    Column("backlog_batches", BigInteger, nullable=True),
    Column("backlog_bytes", BigInteger, nullable=True),
    Column("backlog_oldest_ms", BigInteger, nullable=True),
    Column("clock_source", Integer, nullable=True),
    Column("clock_err_ms", BigInteger, nullable=True),
    Column("sensors_silent", BigInteger, nullable=True),
    Column("paced", Text, nullable=True, comment="why ingest slows it down; null or empty: it does not"),
    comment="What a fleet is filtered and sorted by: one row per gateway of what the three stores say of it.",
)

anchor = Table(
    "anchor",
    telemetry,
    Column("gateway", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("boot", BigInteger, nullable=False),
    Column("mono_ms", BigInteger, nullable=False),
    Column("wall_ms", BigInteger, nullable=False),
    Column("err_ms", BigInteger, nullable=False),
    Column("source", Integer, nullable=False),
    PrimaryKeyConstraint("gateway", "epoch", "boot", "mono_ms"),
)

boot = Table(
    "boot",
    telemetry,
    Column("gateway", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("boot", BigInteger, nullable=False),
    Column("first_ms", BigInteger, nullable=False, comment="when it was first heard of, by the server's clock"),
    Column("anchored", Integer, nullable=False, comment="1 = an anchor places it"),
    Column("wall_ms", BigInteger, nullable=True, comment="of its mono_ms 0, where no anchor ever came"),
    Column("err_ms", BigInteger, nullable=True),
    Column("placed_ms", BigInteger, nullable=True, comment="when it was placed so"),
    PrimaryKeyConstraint("gateway", "epoch", "boot"),
    Index(None, "anchored"),
    Index(None, "placed_ms"),
    comment="Boots of gateways; those without an anchor are placed between their neighbours.",
)

gap = Table(
    "gap",
    telemetry,
    Column("id", String(40), primary_key=True, comment="batch id + index of the event, or a server-made name"),
    Column("gateway", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("lane", Integer, nullable=False),
    Column("group_id", BigInteger, nullable=False, comment="0 = all groups"),
    Column("sensor", String(64), nullable=False),
    Column("from_boot", BigInteger, nullable=False),
    Column("from_mono_ms", BigInteger, nullable=False),
    Column("to_boot", BigInteger, nullable=False),
    Column("to_mono_ms", BigInteger, nullable=False),
    Column("seqs", LargeBinary, nullable=False, comment="ranges as in lane.above"),
    Column("count", BigInteger, nullable=False),
    Column("count_exact", Boolean, nullable=False),
    Column("reason", Integer, nullable=False),
    Column("recorded_ms", BigInteger, nullable=False, comment="when it was last changed"),
    Column("joined_to", String(40), nullable=True, comment="the record this one is part of now; readers skip it"),
    Index(None, "gateway", "epoch"),
    Index(None, "recorded_ms"),
    comment="Records that touch are one: what a dead sensor says every minute is one row.",
)

condition = Table(
    "condition",
    telemetry,
    Column("id", String(40), primary_key=True, comment="batch id + index of the event"),
    Column("gateway", String(16), nullable=False),
    Column("sensor", String(64), nullable=False),
    Column("quantity", String(120), nullable=False),
    Column("name", String(120), nullable=False, comment="the alarm's; empty for silence"),
    Column("kind", Integer, nullable=False, comment="EventKind: raised, cleared, silent, recovered"),
    Column("severity", Integer, nullable=False),
    Column("value", Double, nullable=False),
    Column("limit", Double, nullable=False),
    Column("below", Boolean, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("boot", BigInteger, nullable=False),
    Column("since_mono_ms", BigInteger, nullable=False),
    Column("said_mono_ms", BigInteger, nullable=False),
    Column("recorded_ms", BigInteger, nullable=False),
    Index(None, "gateway", "recorded_ms"),
    Index(None, "gateway", "sensor", "quantity", "name"),
    comment="What a gateway said of its own alarms and of silent sensors; each as it came.",
)

progress = Table(
    "progress",
    telemetry,
    Column("gateway", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("lane", Integer, nullable=False),
    Column("cum", BigInteger, nullable=False, comment="every seq <= cum is resolved and projected"),
    Column("above", LargeBinary, nullable=False),
    Column("marks", LargeBinary, nullable=False, comment="complete_to of seqs above cum"),
    Column("complete_boot", BigInteger, nullable=False, comment="the lane's watermark"),
    Column("complete_mono_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("gateway", "epoch", "lane"),
    comment="Resolved seqs (received, rejected or gap-recorded) and how far a lane is complete.",
)

quarantine = Table(
    "quarantine",
    telemetry,
    Column("batch_id", BigInteger, primary_key=True, autoincrement=False),
    Column("gateway", String(16), nullable=False),
    Column("error", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    comment="Journalled batches that could not be decoded; raw bytes stay in the journal.",
)

received = Table(
    "received",
    telemetry,
    Column("gateway", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("boot", BigInteger, nullable=False),
    Column("hour", BigInteger, nullable=False, comment="mono_ms / 3 600 000"),
    Column("body", LargeBinary, nullable=False, comment="group u32, rows u32 of each group, little-endian"),
    PrimaryKeyConstraint("gateway", "epoch", "boot", "hour"),
    comment="The loss ledger: how many rows of each group came, per hour of a boot's clock.",
)

loss = Table(
    "loss",
    telemetry,
    Column("gateway", String(16), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("boot", BigInteger, nullable=False, comment="0 = nobody knows when"),
    Column("hour", BigInteger, nullable=False),
    Column("group_id", BigInteger, nullable=False, comment="0 = nobody knows of which group"),
    Column("reason", Integer, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("unknown", Integer, nullable=False, comment="1 = besides, rows were lost that nobody could count"),
    PrimaryKeyConstraint("gateway", "epoch", "boot", "hour", "group_id", "reason"),
    comment="The loss ledger: rows that gap records account for.",
)

command_result = Table(
    "command_result",
    telemetry,
    Column("position", BigKey, primary_key=True, autoincrement=True),
    Column("gateway", String(16), nullable=False),
    Column("command", String(64), nullable=False),
    Column("state", Integer, nullable=False, comment="CommandState"),
    Column("text", Text, nullable=False),
    Column("result", Text, nullable=False, comment="JSON: protos.commands.Outcome"),
    Column("recorded_ms", BigInteger, nullable=False),
    UniqueConstraint("gateway", "command"),
    comment="The first result each gateway told of each command.",
)

integrity = Table(
    "integrity",
    telemetry,
    Column("id", String(64), primary_key=True),
    Column("gateway", String(16), nullable=False),
    Column("kind", String(40), nullable=False),
    Column("text", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)

telemetry_unit = _unit(telemetry)

kept = Table(
    "kept",
    telemetry,
    Column("gateway", String(16), nullable=False),
    Column("what", String(8), nullable=False, comment="readings, 1m, 1h, 6h, 1d"),
    Column("from_ms", BigInteger, nullable=False, comment="what had come before is not kept any more"),
    PrimaryKeyConstraint("gateway", "what"),
    comment="From when on there is something, where retention has dropped what was before.",
)

# --- business: written by web and worker -------------------------------------------------------------

gateway = Table(
    "gateway",
    business,
    Column("id", String(16), primary_key=True),
    Column("name", Text, nullable=False),
    Column("asset", Text, nullable=True),
    Column("hardware", Text, nullable=False),
    Column("serial", Text, nullable=False),
    Column("signing_key", LargeBinary, nullable=False, comment="Ed25519 public key"),
    Column("created_ms", BigInteger, nullable=False),
    Column("retired_ms", BigInteger, nullable=True),
    Column("version", BigInteger, nullable=False, server_default="1", comment="of what people edit"),
    Column("enrolled_ms", BigInteger, nullable=True, comment="null: registered ahead, the box has not come yet"),
)

certificate = Table(
    "certificate",
    business,
    Column("serial", String(48), primary_key=True, comment="lower-case hexadecimal"),
    Column("gateway", String(16), nullable=False),
    Column("not_after_ms", BigInteger, nullable=False),
    Column("issued_ms", BigInteger, nullable=False),
    Column("revoked_ms", BigInteger, nullable=True),
    Index(None, "gateway"),
)

clone_release = Table(
    "clone_release",
    business,
    Column("gateway", String(16), primary_key=True),
    Column("since_ms", BigInteger, nullable=False, comment="of the suspicion that is settled: journal.clone"),
    Column("decided_ms", BigInteger, nullable=False),
    Column("by", String(80), nullable=False),
    comment="An administrator's word that the second box is gone; ingest acts on it at the next Hello.",
)

join_token = Table(
    "join_token",
    business,
    Column("id", String(16), primary_key=True),
    Column("secret_sha256", String(64), nullable=False, unique=True),
    Column("gateway_name", Text, nullable=False),
    Column("asset", Text, nullable=True),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("used_ms", BigInteger, nullable=True),
    Column("used_by", String(16), nullable=True),
    Column("used_csr_sha256", String(64), nullable=True, comment="the same CSR again is a retry, not a second use"),
    Column("gateway", String(16), nullable=True, comment="the gateway registered ahead that this token is for"),
)

user = Table(
    "user_account",
    business,
    Column("name", String(80), primary_key=True),
    Column("password_hash", Text, nullable=False),
    Column("role", String(16), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("groups", Text, nullable=True, comment="JSON array of slugs; null: the whole fleet"),
    Column("version", BigInteger, nullable=False, server_default="1"),
)

browser_session = Table(
    "browser_session",
    business,
    Column("secret_sha256", String(64), primary_key=True, comment="of the cookie's value"),
    Column("user_name", String(80), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("seen_ms", BigInteger, nullable=False, comment="of the last request, to the minute"),
    Column("expires_ms", BigInteger, nullable=False),
    Index(None, "user_name"),
)

api_token = Table(
    "api_token",
    business,
    Column("id", String(16), primary_key=True),
    Column("secret_sha256", String(64), nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("role", String(16), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=True),
    Column("revoked_ms", BigInteger, nullable=True),
    Column("user_name", String(80), nullable=True, comment="whose rights bound it; null: nobody's"),
    Column("permissions", Text, nullable=True, comment="JSON array of area:read, area:write; null: all of its role"),
    Column("groups", Text, nullable=True, comment="JSON array of slugs; null: as its user, or the whole fleet"),
)

reconcile_cursor = Table(
    "reconcile_cursor",
    business,
    Column("name", String(64), primary_key=True),
    Column("position", BigInteger, nullable=False),
)

rule_checkpoint = Table(
    "rule_checkpoint",
    business,
    Column("rule", String(64), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("body", Text, nullable=False, comment="JSON: where the rule may resume"),
    PrimaryKeyConstraint("rule", "subject"),
)

event = Table(
    "event",
    business,
    Column("id", String(120), primary_key=True, comment="evt_<entity>_<slug>_v<n>"),
    Column("entity_id", String(36), nullable=False),
    Column("type", String(120), nullable=False),
    Column("version", Integer, nullable=False),
    Column("subject", String(200), nullable=False),
    Column("change", String(12), nullable=False, comment="create, amend, supersede, retract"),
    Column("finality", String(12), nullable=False, comment="provisional, final"),
    Column("held", String(12), nullable=True, comment="expired: hold_max ran out before the watermark passed"),
    Column("supersedes", String(120), nullable=True),
    Column("time_ms", BigInteger, nullable=False, comment="when it was true"),
    Column("decided_ms", BigInteger, nullable=False, comment="event time of the observation that decided it"),
    Column("recorded_ms", BigInteger, nullable=False, comment="when we knew"),
    Column("data_sha256", String(64), nullable=False),
    Column("data", Text, nullable=False, comment="canonical JSON"),
    Column("current", Boolean, nullable=False, comment="the newest version of its entity and type"),
    UniqueConstraint("entity_id", "type", "version"),
    Index(None, "subject", "type"),
    Index(None, "recorded_ms", "id"),
)

key_seq = Table(
    "key_seq",
    business,
    Column("dest", String(64), nullable=False),
    Column("key", String(200), nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    Column("lease_until_ms", BigInteger, nullable=False, server_default="0"),
    Column("next_at_ms", BigInteger, nullable=True, comment="earliest useful moment; null = nothing open"),
    PrimaryKeyConstraint("dest", "key"),
    Index(None, "dest", "next_at_ms"),
    comment="Order and lease of one key at one destination.",
)

outbox = Table(
    "outbox",
    business,
    Column("dest", String(64), nullable=False),
    Column("key", String(200), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("event_id", String(120), nullable=False),
    Column("ext_ref", String(120), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("body_sha256", String(64), nullable=False),
    Column("state", String(12), nullable=False),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("next_at_ms", BigInteger, nullable=False),
    Column("sent_ms", BigInteger, nullable=True),
    Column("delivered_ms", BigInteger, nullable=True),
    Column("erp_id", Text, nullable=True),
    Column("last_class", String(20), nullable=True),
    Column("last_error", Text, nullable=True),
    Column("created_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("dest", "key", "seq"),
    UniqueConstraint("dest", "event_id"),
    Index(None, "state"),
)
_ENDED = "('delivered', 'superseded', 'skipped', 'shadowed')"
OPEN_ROW = text(f"outbox.state NOT IN {_ENDED}")
"""A literal, not a parameter: only so is the index of open rows used, and a key's delivered past never walked."""
Index(
    "ix_outbox_open",
    outbox.c.dest,
    outbox.c.key,
    outbox.c.seq,
    sqlite_where=text(f"state NOT IN {_ENDED}"),
    postgresql_where=text(f"state NOT IN {_ENDED}"),
)
relay_act = Table(
    "relay_act",
    business,
    Column("id", BigKey, primary_key=True, autoincrement=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("actor", String(120), nullable=False),
    Column("dest", String(64), nullable=False),
    Column("event_id", String(120), nullable=True, comment="null = of the destination"),
    Column("act", String(12), nullable=False, comment="replay, skip, fix, resume, cutover"),
    Column("reason", Text, nullable=False),
    Column("body", LargeBinary, nullable=True, comment="what a fix replaced"),
    Index(None, "dest", "event_id"),
    comment="What people did to deliveries.",
)
cutover = Table(
    "cutover",
    business,
    Column("dest", String(64), nullable=False),
    Column("key", String(200), nullable=False, comment="* = every key"),
    Column("at_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("dest", "key"),
    comment="Keys of a destination in shadow mode that are delivered after all.",
)
relay_health = Table(
    "relay_health",
    business,
    Column("dest", String(64), primary_key=True),
    Column("state", String(12), nullable=False, comment="running, open, half_open, maintenance, refused, paused"),
    Column("until_ms", BigInteger, nullable=True),
    Column("why", Text, nullable=False),
    Column("at_once", Integer, nullable=False, comment="deliveries under way at most, as the far side bears"),
    Column("at_ms", BigInteger, nullable=False),
    comment="How the relay that looked last finds a destination.",
)

attempt = Table(
    "attempt",
    business,
    Column("id", BigKey, primary_key=True, autoincrement=True),
    Column("dest", String(64), nullable=False),
    Column("event_id", String(120), nullable=False),
    Column("number", Integer, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("took_ms", BigInteger, nullable=True),
    Column("outcome", String(20), nullable=True, comment="class of the answer; null = the relay died meanwhile"),
    Column("status", Integer, nullable=True),
    Column("error", Text, nullable=True),
    Column("bytes", Integer, nullable=False),
    Index(None, "dest", "event_id"),
)

gateway_group = Table(
    "gateway_group",
    business,
    Column("slug", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("priority", Integer, nullable=False, comment="of its template: the higher one wins; then the later slug"),
    Column("created_ms", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False, server_default="1"),
)

gateway_group_member = Table(
    "gateway_group_member",
    business,
    Column("slug", String(64), nullable=False),
    Column("gateway", String(16), nullable=False),
    PrimaryKeyConstraint("slug", "gateway"),
    Index(None, "gateway"),
)

config_change = Table(
    "config_change",
    business,
    Column("name", String(16), primary_key=True),
    Column("last", BigInteger, nullable=False),
    comment="Counts saves: rendering from what another save has changed is noticed, and ingest has its cursor.",
)

config_layer = Table(
    "config_layer",
    business,
    Column("kind", String(8), nullable=False, comment="fleet, group, gateway"),
    Column("target", String(64), nullable=False, comment="empty, a group's slug, a gateway's id"),
    Column("version", BigInteger, nullable=False, comment="from 1; the newest is in force"),
    Column("body", Text, nullable=False, comment="JSON: a part of a configuration document"),
    Column("saved_ms", BigInteger, nullable=False),
    Column("saved_by", Text, nullable=False),
    PrimaryKeyConstraint("kind", "target", "version"),
)

config_document = Table(
    "config_document",
    business,
    Column("hash", String(64), primary_key=True, comment="SHA-256 of body"),
    Column("body", LargeBinary, nullable=False, comment="canonical JSON, whole"),
    Column("created_ms", BigInteger, nullable=False),
)

config_revision = Table(
    "config_revision",
    business,
    Column("gateway", String(16), nullable=False),
    Column("generation", BigInteger, nullable=False, comment="strictly increasing: the fencing token"),
    Column("hash", String(64), nullable=False),
    Column("provenance", Text, nullable=False, comment="JSON: pointer to layer"),
    Column("since_ms", BigInteger, nullable=False),
    Column("why", Text, nullable=False),
    PrimaryKeyConstraint("gateway", "generation"),
    comment="Everything that was ever wanted of a gateway.",
)

config_desired = Table(
    "config_desired",
    business,
    Column("gateway", String(16), primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("change", BigInteger, nullable=False, comment="config_change.last of the save"),
    Index(None, "change"),
    comment="What is wanted of each gateway now.",
)

asset = Table(
    "asset",
    business,
    Column("id", String(320), primary_key=True, comment="slug path; its parent is the path without the last slug"),
    Column("kind", String(16), nullable=False, comment="vehicle, compartment, warehouse, other"),
    Column("name", Text, nullable=False),
    Column("attrs", Text, nullable=False, comment="JSON object of strings"),
    Column("created_ms", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)

place = Table(
    "place",
    business,
    Column("slug", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("shape", Text, nullable=False, comment="JSON: a circle or a polygon"),
    Column("attrs", Text, nullable=False, comment="JSON object of strings"),
    Column("created_ms", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)

sensor_note = Table(
    "sensor_note",
    business,
    Column("gateway", String(16), nullable=False),
    Column("sensor", String(64), nullable=False),
    Column("name", Text, nullable=False),
    Column("asset", Text, nullable=True),
    Column("notes", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    PrimaryKeyConstraint("gateway", "sensor"),
    comment="What people say of sensors, beside what gateways declare and configurations order.",
)

registry_edit = Table(
    "registry_edit",
    business,
    Column("kind", String(16), nullable=False, comment="gateway, sensor, asset, place, group, user"),
    Column("id", String(320), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("body", Text, nullable=True, comment="JSON: what it was from then on; null: deleted"),
    Column("edited_ms", BigInteger, nullable=False),
    Column("edited_by", Text, nullable=False),
    PrimaryKeyConstraint("kind", "id", "version"),
    comment="Every version of what people edit: a stale edit is told what changed since.",
)

command = Table(
    "command",
    business,
    Column("id", String(64), primary_key=True),
    Column("gateway", String(16), nullable=False),
    Column("number", BigInteger, nullable=True, comment="rises per gateway; null: asked at the box"),
    Column("sensor", String(64), nullable=False),
    Column("quantity", String(120), nullable=False),
    Column("value", Text, nullable=False, comment="JSON"),
    Column("expect", Text, nullable=True, comment="JSON: only if the device holds this"),
    Column("generation", BigInteger, nullable=False, comment="of the configuration; 0 = any"),
    Column("asked_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("asked_by", Text, nullable=False),
    Column("caller", String(80), nullable=False, comment="whose idempotency key it is"),
    Column("idempotency_key", String(200), nullable=False),
    Column("state", String(12), nullable=False),
    Column("sent_ms", BigInteger, nullable=True, comment="null: no gateway can have seen it"),
    Column("until_ms", BigInteger, nullable=True, comment="sent again until then; null: no more"),
    Column("ended_ms", BigInteger, nullable=True, comment="of its one result; null: there is none yet"),
    Column("text", Text, nullable=False),
    Column("result", Text, nullable=True, comment="JSON: what the device held"),
    UniqueConstraint("gateway", "number"),
    UniqueConstraint("gateway", "caller", "idempotency_key"),
    Index(None, "until_ms"),
    Index(None, "gateway", "asked_ms"),
    comment="What was asked of devices, by whom, and what became of it; never deleted.",
)

lease = Table(
    "lease",
    business,
    Column("name", String(120), primary_key=True),
    Column("holder", Text, nullable=False),
    Column("fence", BigInteger, nullable=False, comment="rises with each holder; checked in what they write"),
    Column("until_ms", BigInteger, nullable=False, comment="by the database's clock"),
    Column("taken_ms", BigInteger, nullable=False, comment="by the database's clock"),
    comment="Which process does what only one may do, and which processes live. On SQLite files do that.",
)

installation = Table(
    "installation",
    business,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
    comment="What all hosts of this installation must agree on: the keys they were given.",
)

failed_attempt = Table(
    "failed_attempt",
    business,
    Column("name", String(200), primary_key=True),
    Column("failures", BigInteger, nullable=False),
    Column("until_ms", BigInteger, nullable=False, comment="by the database's clock"),
    comment="Attempts to log in that were refused, per address, where several processes count them together.",
)

retention = Table(
    "retention",
    business,
    Column("slug", String(64), primary_key=True, comment="of a group of gateways"),
    Column("body", Text, nullable=False, comment="JSON: days by what is kept; what is missing is as for the fleet"),
    Column("version", BigInteger, nullable=False),
    comment="How long what gateways of a group sent is kept, where that differs from the server's setting.",
)

STORES = {"journal": journal, "telemetry": telemetry, "business": business}
