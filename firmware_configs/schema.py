"""What a Modbus profile may say: one typed document per device model, facts only, each with its public source.

Addresses are those of the protocol (0-based, as sent on the wire), never the 1-based numbers of data sheets.
`ModbusProfile.expanded()` is the list of registers to read; blocks exist only to keep long files short.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from protos.config import Report

RegisterType = Literal[
    "bool", "u8", "i8", "u16", "i16", "u24", "i24", "u32", "i32", "u48", "i48", "u64", "i64", "f16", "f32", "f64",
    "bcd16", "bcd32", "bcd64", "mod10k32", "mod10k48", "mod10k64", "unix32", "ymdhms", "iec870", "string",
]  # fmt: skip
"""bcdN: packed decimal digits. mod10kN: each register holds four decimal digits, 0 to 9999. The last three are moments:
unix32 seconds since 1970; ymdhms six registers, year to second; iec870 four registers (IEC 60870-5-4: year, month and
day, hour and minute, milliseconds). They become milliseconds since 1970 by the device's own calendar."""
RegisterFunction = Literal["holding", "input", "coil", "discrete"]
WriteFunction = Literal[5, 6, 15, 16, 22, 23]
Order = Literal["big", "little"]
WordOrder = Literal["big", "little", "swapped_pairs", "reversed_pairs"]
"""Of a value's registers 1 2 3 4, most significant first: big sends 1 2 3 4, little 4 3 2 1, swapped_pairs 2 1 4 3 and
reversed_pairs 3 4 1 2."""
Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*$", title="snake_case quantity")]
Slug = Annotated[str, Meta(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", title="lower-case letters, digits and -")]
Address = Annotated[int, Meta(ge=0, le=65535)]

BITS: frozenset[str] = frozenset({"coil", "discrete"})
FLOATS: frozenset[str] = frozenset({"f16", "f32", "f64"})
MOMENTS: frozenset[str] = frozenset({"unix32", "ymdhms", "iec870"})
WIDTHS: dict[str, int] = {
    "bool": 1, "u8": 1, "i8": 1, "u16": 1, "i16": 1, "f16": 1, "bcd16": 1,
    "u24": 2, "i24": 2, "u32": 2, "i32": 2, "f32": 2, "bcd32": 2, "mod10k32": 2, "unix32": 2,
    "u48": 3, "i48": 3, "mod10k48": 3, "u64": 4, "i64": 4, "f64": 4, "bcd64": 4, "mod10k64": 4, "iec870": 4,
    "ymdhms": 6,
}  # fmt: skip


class Frozen(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Source(Frozen, frozen=True, kw_only=True):
    """A public document."""

    id: Slug
    title: Annotated[str, Meta(min_length=1)]
    url: str = ""
    """Where it was found; empty when only its title is known to be stable."""


class Span(Frozen, frozen=True, kw_only=True):
    """Addresses `first` to `last` of one table, both included."""

    function: RegisterFunction
    first: Address
    last: Address


class Limits(Frozen, frozen=True, kw_only=True):
    """What one request to this device may ask."""

    max_registers: Annotated[int, Meta(ge=1, le=125)] = 125
    max_bits: Annotated[int, Meta(ge=1, le=2000)] = 2000
    max_gap: Annotated[int, Meta(ge=0, le=124)] = 0
    """Registers that nobody asked for and that may be read to save a request; 0: some answer holes with an error."""
    forbidden: tuple[Span, ...] = ()
    """Never read these, not even to fill a gap: the device refuses them, or reading them changes something."""
    one_by_one: bool = False
    """Each value by a request of its own: the device can't answer blocks."""


class Timing(Frozen, frozen=True, kw_only=True):
    """What this device needs beyond the standard. Reading it is slower then; the planner reckons with it."""

    turnaround_ms: Annotated[float, Meta(ge=0.0, le=10_000.0)] | None = None
    """From question to answer, as measured or documented; by default 5 ms by Ethernet, 10 ms on a serial line."""
    pause_ms: Annotated[int, Meta(ge=0, le=10_000)] = 0
    """Silence after its answer before it is asked again."""
    after_connect_ms: Annotated[int, Meta(ge=0, le=60_000)] = 0
    """Silence after connecting before the first question."""
    busy_retries: Annotated[int, Meta(ge=0, le=10)] = 0
    """How often a question is asked again that was answered with 5 (acknowledge) or 6 (busy)."""
    busy_wait_ms: Annotated[int, Meta(ge=1, le=10_000)] = 100
    """How long to wait before that."""
    reconnect_each: bool = False
    """It answers one question per connection."""


class Register(Frozen, frozen=True, kw_only=True):
    """One quantity and where it lives."""

    quantity: Name
    function: RegisterFunction
    address: Address
    type: RegisterType
    unit: str = ""
    """UCUM code."""
    decimals: Annotated[int, Meta(ge=0, le=9)] | None = None
    """The device's integer has this many decimals. For floats: what the device resolves, so that 23.1 costs two bytes
    instead of eight; a float that doesn't fit travels as it is."""
    scale: float | None = None
    """value = integer × scale + offset, where no power of ten says it."""
    offset: float = 0.0
    words: Annotated[int, Meta(ge=1, le=32)] | None = None
    """Length of a string in registers."""
    byte: Literal["high", "low"] | None = None
    """Which half of the register an u8 or i8 is."""
    bit: Annotated[int, Meta(ge=0, le=31)] | None = None
    """Of a holding or input register: the bit (0 = least significant) of a bool, or the lowest of a field in an u16 or
    u32."""
    bits: Annotated[int, Meta(ge=1, le=31)] | None = None
    """Width of that field."""
    magnitude: bool = False
    """An i8, i16, i32 or i64 whose highest bit is the sign of the rest, not two's complement."""
    identifying: bool = False
    """Tells one device from all others of its model, e.g. its serial number: recordings blank it."""
    scale_from: Name | None = None
    """Quantity of this device, an integer n: value = integer × 10ⁿ, as SunSpec's scale factors."""
    labels: dict[Annotated[str, Meta(pattern=r"^-?[0-9]+$")], str] = field(default_factory=dict)
    """What a state's numbers mean: the number as text → a word."""
    byte_order: Order | None = None
    word_order: WordOrder | None = None
    sentinels: tuple[int | float, ...] = ()
    """Raw values by which the device says "not available"; 0x8000 is the same as -32768 in an i16."""
    attrs: dict[str, str] = field(default_factory=dict)
    """Attributes that travel with the series."""
    writable: bool = False
    """A command may write it, where the sensor's configuration allows that too."""
    min: float | None = None
    """The least value that may be written,"""
    max: float | None = None
    """and the greatest."""
    write_function: WriteFunction | None = None
    """How it is written; by default 5 for a coil, 22 for a part of a register, 6 for one register, 16 for several."""
    verify_after_ms: Annotated[int, Meta(ge=0, le=5000)] = 0
    """How long the device takes until it shows what was written."""
    source: Annotated[str, Meta(min_length=1)]
    """Source id and table, page or section."""

    @property
    def width(self) -> int:
        """Registers it occupies (bits, for coils and discrete inputs)."""
        return self.words or 1 if self.type == "string" else WIDTHS[self.type]

    @property
    def part(self) -> bool:
        """It shares its register with others."""
        return self.function not in BITS and (self.bit is not None or self.byte is not None)

    @property
    def written_by(self) -> WriteFunction:
        if self.write_function is not None:
            return self.write_function
        if self.function in BITS:
            return 5
        return 22 if self.part else 6 if self.width == 1 else 16


class Block(Frozen, frozen=True, kw_only=True):
    """`count` registers of one kind in a row; `{}` in `quantity` is replaced by their three-digit number from 0."""

    quantity: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*\{\}$")]
    count: Annotated[int, Meta(ge=1, le=1000)]
    function: RegisterFunction
    address: Address
    type: RegisterType
    unit: str = ""
    decimals: Annotated[int, Meta(ge=0, le=9)] | None = None
    source: Annotated[str, Meta(min_length=1)]

    def registers(self) -> tuple[Register, ...]:
        width = WIDTHS[self.type]
        return tuple(
            Register(
                quantity=self.quantity.replace("{}", f"{n:03d}"),
                function=self.function,
                address=self.address + n * width,
                type=self.type,
                unit=self.unit,
                decimals=self.decimals,
                source=self.source,
            )
            for n in range(self.count)
        )


class Term(Frozen, frozen=True, kw_only=True):
    """`times` × the quantity `of`."""

    of: Name
    times: float | int = 1


class Derived(Frozen, frozen=True, kw_only=True):
    """A quantity that the device does not have as such: a sum of others of one poll. Not available if one isn't."""

    quantity: Name
    unit: str = ""
    decimals: Annotated[int, Meta(ge=0, le=9)] | None = None
    terms: Annotated[tuple[Term, ...], Meta(min_length=1)]
    attrs: dict[str, str] = field(default_factory=dict)
    source: Annotated[str, Meta(min_length=1)]


class ModbusProfile(Frozen, frozen=True, kw_only=True):
    """One device model. Its name is `vendor-model@version`, its file `modbus/<vendor>-<model>.toml`.

    Older versions may stay beside it, in files named `<vendor>-<model>@<version>.toml`.
    """

    vendor: Slug
    model: Slug
    version: Annotated[int, Meta(ge=1)]
    """Raised whenever a register changes its meaning."""
    description: Annotated[str, Meta(min_length=1)]
    simulated: bool = False
    """No such device exists; every series made from it says so."""
    sources: Annotated[tuple[Source, ...], Meta(min_length=1)]
    limits: Limits = Limits()
    timing: Timing = Timing()
    byte_order: Order = "big"
    """Within a register; "little" only for devices that break the Modbus rule."""
    word_order: WordOrder = "big"
    """Of the registers of one value."""
    register: tuple[Register, ...] = ()
    block: tuple[Block, ...] = ()
    derived: tuple[Derived, ...] = ()
    report: dict[Annotated[str, Meta(pattern=r"^(\*|[a-z][a-z0-9_]*)$")], Report] = field(default_factory=dict)
    """Per quantity, "*" for those not named: which changes matter on this device. For sensors that say
    `report_by_profile`; what a sensor says itself goes first."""

    @property
    def name(self) -> str:
        return f"{self.vendor}-{self.model}@{self.version}"

    def expanded(self) -> tuple[Register, ...]:
        """Every register, blocks unrolled, orders filled in, in the order of the file."""
        listed = [*self.register, *(r for block in self.block for r in block.registers())]
        return tuple(
            msgspec.structs.replace(
                r, byte_order=r.byte_order or self.byte_order, word_order=r.word_order or self.word_order
            )
            for r in listed
        )

    def only(self, wanted: Collection[str]) -> ModbusProfile:
        """The same with what these quantities need, and no more."""
        derived = tuple(one for one in self.derived if one.quantity in wanted)
        needed = {*wanted, *(term.of for one in derived for term in one.terms)}
        listed = self.expanded()
        needed |= {r.scale_from for r in listed if r.quantity in needed and r.scale_from is not None}
        kept = tuple(r for r in listed if r.quantity in needed)
        return msgspec.structs.replace(self, register=kept, block=(), derived=derived)

    def quantities(self) -> tuple[str, ...]:
        """What a sensor of this profile delivers, in the order of its columns."""
        return (*(register.quantity for register in self.expanded()), *(one.quantity for one in self.derived))
