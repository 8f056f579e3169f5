"""The control plane's settings: one frozen tree, read once from an optional TOML file.

This is the only reader of settings files. Unknown keys are refused with their path and a suggestion.
`control.example.toml` and `integrations.example/` list every setting; a test holds them true.
"""

from __future__ import annotations

import ipaddress
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct

from control_plane.errors import Misconfigured
from protos.strict import DocumentError, convert

T = TypeVar("T")

Seconds = Annotated[float, Meta(ge=0)]
PositiveSeconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Days = Annotated[float, Meta(ge=0, le=36_500)]
HARD_BODY_LIMIT_BYTES = 16 * 1024 * 1024


class Frozen(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every section."""


class ColdChainRule(Frozen, frozen=True, kw_only=True):
    """Applies to series whose attribute `role` is `cargo_temperature`."""

    name: str = "cold-chain"
    """Part of every excursion's identity: renaming a rule makes new excursions."""
    low: float = 2.0
    """°C; below is an excursion."""
    high: float = 8.0
    """°C; above is an excursion."""
    hysteresis: Annotated[float, Meta(ge=0)] = 0.5
    """°C back inside the limits before an excursion can close."""
    open_after_s: Seconds = 300.0
    """Outside for this long opens an excursion."""
    close_after_s: Seconds = 300.0
    """Inside for this long closes it."""
    gap_periods: Annotated[float, Meta(gt=0)] = 3.0
    """Silence of this many sampling periods is a gap in coverage."""
    gap_s: PositiveSeconds | None = None
    """The same in seconds; wins over gap_periods."""
    hold_max_s: PositiveSeconds = 86_400.0
    """Wait at most this long for late data before closings become final."""

    def __post_init__(self) -> None:
        if self.low + 2 * self.hysteresis >= self.high:
            raise ValueError("low + 2 × hysteresis must be below high")


class Rules(Frozen, frozen=True, kw_only=True):
    cold_chain: tuple[ColdChainRule, ...] = (ColdChainRule(),)
    hold_max_s: Seconds = 86_400.0
    """Gaps, alarms and silence wait no longer than this for their gateway's data before they are final."""

    def __post_init__(self) -> None:
        names = [rule.name for rule in self.cold_chain]
        if len(set(names)) != len(names):
            raise ValueError("two cold_chain rules have the same name")


class IngestSection(Frozen, frozen=True, kw_only=True):
    processes: Annotated[int, Meta(ge=1, le=64)] = 1
    """How many `up` runs, all on one port; more than one pays on PostgreSQL and more than two cores."""
    linger_ms: Annotated[float, Meta(ge=0, le=1000)] = 5.0
    """Wait this long for more batches before a group commit."""
    max_inflight: Annotated[int, Meta(ge=1, le=256)] = 16
    """Batches a gateway may have sent and not yet acknowledged."""
    max_body_bytes: Annotated[int, Meta(ge=1024, le=HARD_BODY_LIMIT_BYTES)] = 1024 * 1024
    """Largest uncompressed batch body."""
    max_message_bytes: Annotated[int, Meta(ge=4096, le=2 * HARD_BODY_LIMIT_BYTES)] = 2 * 1024 * 1024
    """Largest gRPC message accepted."""
    batch_interval_s: Seconds = 0.0
    """Interval gateways are asked to seal telemetry at; 0 = their own."""
    opens_per_s: Annotated[float, Meta(ge=1)] = 250.0
    """Streams one process opens a second; who comes sooner is told when to come back."""
    batches_per_s: Annotated[float, Meta(ge=0)] = 0.0
    """Of one gateway, on average; faster ones are slowed down. 0 = as fast as they send."""
    bytes_per_day: Annotated[int, Meta(ge=0)] = 0
    """Of one gateway's batches; who sent so much is slowed down to that average. 0 = no limit."""


class RetentionSection(Frozen, frozen=True, kw_only=True):
    """Days; 0 = for ever. A group of gateways may have others: `comboio retention`."""

    raw_days: Days = 30.0
    """Batches as they came. What readings are sealed from, events' evidence apart."""
    readings_days: Days = 0.0
    """Readings, since they were sealed."""
    minutes_days: Days = 0.0
    """Rollups of a minute."""
    hours_days: Days = 0.0
    """Rollups of an hour."""
    days_days: Days = 0.0
    """Rollups of a day, and of quarters of one."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}: at least 1 day, or 0 for ever")


class ConfigurationSection(Frozen, frozen=True, kw_only=True):
    probation_s: Annotated[int, Meta(ge=1, le=600)] = 60
    """A pushed configuration proves itself this long before it is kept."""


class IdentitySection(Frozen, frozen=True, kw_only=True):
    per_minute: Annotated[float, Meta(ge=1)] = 60.0
    """Certificates one address may ask for; a refused attempt counts as six."""


class WebSection(Frozen, frozen=True, kw_only=True):
    threads: Annotated[int, Meta(ge=4, le=1024)] = 32
    """Requests served at once."""
    streams: Annotated[int, Meta(ge=0, le=1024)] = 64
    """Live pages open at once, in threads of their own."""
    max_request_bytes: Annotated[int, Meta(ge=1024)] = 1024 * 1024
    """Largest request body."""
    logins_per_minute: Count = 10
    """Password attempts one address may make."""
    proxies: tuple[str, ...] = ()
    """Addresses of balancers whose X-Forwarded-For is believed when attempts are counted."""


class Settings(Frozen, frozen=True, kw_only=True):
    """Everything `comboio-control` can be told."""

    data_dir: str = "/var/lib/comboio-control"
    """Keys, the SQLite stores, run.json."""
    database: str = ""
    """postgresql://USER@HOST/NAME; empty: SQLite files in data_dir."""
    http: str = "0.0.0.0:8443"
    """Web and REST. Plain HTTP on a loopback address, TLS with the fleet CA's certificate on any other."""
    grpc: str = "0.0.0.0:8444"
    """Gateways' streams, mutual TLS."""
    identity: str = "0.0.0.0:8445"
    """Enrolment and renewal, server-side TLS."""
    public_name: str = ""
    """Name or address gateways reach this server by; empty: the listeners' address or this machine's name."""
    integrations: str = "integrations"
    """Folder of destinations, one <name>.toml each; relative to this file's folder, or to data_dir without a file."""
    ingest: IngestSection = IngestSection()
    retention: RetentionSection = RetentionSection()
    configuration: ConfigurationSection = ConfigurationSection()
    identity_limits: IdentitySection = IdentitySection()
    web: WebSection = WebSection()
    rules: Rules = Rules()

    def __post_init__(self) -> None:
        for name in ("http", "grpc", "identity"):
            try:
                Address.parse(getattr(self, name))
            except ValueError:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not HOST:PORT") from None

    @property
    def data(self) -> Path:
        return Path(self.data_dir)

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.data.absolute()}"

    @property
    def http_address(self) -> Address:
        return Address.parse(self.http)

    @property
    def server_name(self) -> str:
        """What gateways call this server; also in its certificate."""
        if self.public_name:
            return self.public_name
        return self.http_address.host if not self.http_address.any_host else socket.gethostname()

    def advertised(self, address: str) -> str:
        """HOST:PORT as a gateway reaches one of the listeners."""
        parsed = Address.parse(address)
        host = self.public_name or (self.server_name if parsed.any_host else parsed.host)
        return str(Address(host, parsed.port))


class Address(NamedTuple):
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """'127.0.0.1:8443', '[::1]:8443'; raises ValueError."""
        host, _, port = text.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        if not bare or not port.isdecimal() or int(port) > 65_535 or (":" in bare) != host.startswith("["):
            raise ValueError(text)
        return cls(bare, int(port))

    @property
    def any_host(self) -> bool:
        return self.host in {"0.0.0.0", "::", ""}  # noqa: S104 - recognised, not bound

    @property
    def loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Destination(Frozen, frozen=True, kw_only=True):
    """What every `integrations/<name>.toml` may say; each kind of far side adds its own options to it."""

    kind: str = "webhook"
    """How events travel: a name of `CONNECTORS`."""
    name: str = ""
    """The file's name without .toml; may be left out."""
    event_types: tuple[str, ...] = ()
    """Exact types, or prefixes ending in *; empty = all."""
    finality: Literal["final_only", "provisional_ok"] = "final_only"
    """Whether provisional versions are sent too."""
    timeout_s: PositiveSeconds = 15.0
    """Longest wait for an answer."""
    retry: tuple[PositiveSeconds, ...] = (5.0, 30.0, 120.0, 600.0, 1800.0, 7200.0, 18_000.0, 36_000.0)
    """Seconds before each further attempt; after the last the delivery is parked."""
    grace_s: Seconds = 60.0
    """After an unknown outcome, wait this long before asking or sending again."""
    concurrency: Annotated[int, Meta(ge=1, le=256)] = 4
    """Keys delivered at once, while the far side keeps up: fewer when it throttles or becomes slow."""
    per_s: Annotated[float, Meta(ge=0)] = 0.0
    """Deliveries begun a second at most; 0 = no limit."""
    mode: Literal["live", "shadow", "paused"] = "live"
    """shadow: nothing is sent, the far side is only asked what it has; paused: deliveries gather and wait."""
    coalesce: bool = True
    """Leave out a version that was not sent yet when a newer one of the same event comes; never of stock moves."""
    breaker_failures: Annotated[int, Meta(ge=0)] = 5
    """So many failures in a row, of more than one key, and the destination is left alone for a while; 0 = never."""
    maintenance: tuple[str, ...] = ()
    """When it is known to be away: "Sat 22:00-04:00", "daily 02:00-02:30", "2026-12-24T20:00/2026-12-26T06:00"."""
    timezone: str = "UTC"
    """Of the maintenance windows, as in America/Sao_Paulo."""

    @property
    def host(self) -> str | None:
        """Who is written to, for people."""
        return None

    def wants(self, event_type: str) -> bool:
        if not self.event_types:
            return True
        return any(
            event_type.startswith(wanted[:-1]) if wanted.endswith("*") else event_type == wanted
            for wanted in self.event_types
        )


def read(path: Path | None, **overrides: str | None) -> Settings:
    """Settings from `path` (None: defaults or `<data_dir>/control.toml`) under what the command line says.

    Raises Misconfigured with every mistake, one a line.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    if path is None:
        usual = Path(given.get("data_dir", Settings().data_dir)) / "control.toml"
        path = usual if usual.exists() else None
    raw = toml(path) if path is not None else {}
    settings = converted(raw | given, Settings, path)
    folder = (path.parent if path is not None else settings.data) / settings.integrations
    return msgspec.structs.replace(settings, integrations=str(folder.absolute()))


def toml(path: Path) -> dict[str, Any]:
    """One file; raises Misconfigured with its path."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path}: {error}") from None


def converted(raw: dict[str, Any], kind: type[T], path: Path | None) -> T:
    """Strictly; raises Misconfigured with every mistake, one a line."""
    try:
        return convert(raw, kind)
    except DocumentError as error:
        where = f"{path}: " if path is not None else ""
        raise Misconfigured("\n".join(where + problem for problem in error.problems)) from None
