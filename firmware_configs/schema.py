"""What a Modbus profile may say: one typed document per device model, facts only, each with its public source.

Addresses are those of the protocol (0-based, as sent on the wire), never the 1-based numbers of data sheets.
`ModbusProfile.expanded()` is the list of registers to read; blocks exist only to keep long files short.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

RegisterType = Literal["bool", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64", "bcd16", "bcd32", "string"]
RegisterFunction = Literal["holding", "input", "coil", "discrete"]
Order = Literal["big", "little"]
Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*$", title="snake_case quantity")]
Slug = Annotated[str, Meta(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", title="lower-case letters, digits and -")]
Address = Annotated[int, Meta(ge=0, le=65535)]

BITS: frozenset[str] = frozenset({"coil", "discrete"})
FLOATS: frozenset[str] = frozenset({"f32", "f64"})
WIDTHS: dict[str, int] = {
    "bool": 1, "u16": 1, "i16": 1, "bcd16": 1, "u32": 2, "i32": 2, "f32": 2, "bcd32": 2, "u64": 4, "i64": 4, "f64": 4,
}  # fmt: skip


class Frozen(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Source(Frozen, frozen=True, kw_only=True):
    """A public document."""

    id: Slug
    title: Annotated[str, Meta(min_length=1)]
    url: str = ""
    """Where it was found; empty when only its title is known to be stable."""


class Limits(Frozen, frozen=True, kw_only=True):
    """What one request to this device may ask."""

    max_registers: Annotated[int, Meta(ge=1, le=125)] = 125
    max_bits: Annotated[int, Meta(ge=1, le=2000)] = 2000
    max_gap: Annotated[int, Meta(ge=0, le=124)] = 0
    """Registers that nobody asked for and that may be read to save a request; 0: some answer holes with an error."""


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
    bit: Annotated[int, Meta(ge=0, le=15)] | None = None
    """Bit of a holding or input register (0 = least significant), for type bool."""
    byte_order: Order | None = None
    word_order: Order | None = None
    sentinels: tuple[int | float, ...] = ()
    """Raw values by which the device says "not available"."""
    attrs: dict[str, str] = field(default_factory=dict)
    """Attributes that travel with the series."""
    source: Annotated[str, Meta(min_length=1)]
    """Source id and table, page or section."""

    @property
    def width(self) -> int:
        """Registers it occupies (bits, for coils and discrete inputs)."""
        return self.words or 1 if self.type == "string" else WIDTHS[self.type]


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


class ModbusProfile(Frozen, frozen=True, kw_only=True):
    """One device model. Its name is `vendor-model@version`, its file `modbus/<vendor>-<model>.toml`."""

    vendor: Slug
    model: Slug
    version: Annotated[int, Meta(ge=1)]
    """Raised whenever a register changes its meaning."""
    description: Annotated[str, Meta(min_length=1)]
    simulated: bool = False
    """No such device exists; every series made from it says so."""
    sources: Annotated[tuple[Source, ...], Meta(min_length=1)]
    limits: Limits = Limits()
    byte_order: Order = "big"
    """Within a register; "little" only for devices that break the Modbus rule."""
    word_order: Order = "big"
    """Of the registers of one value: "big" sends the most significant first."""
    register: tuple[Register, ...] = ()
    block: tuple[Block, ...] = ()

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


def json_schema() -> dict[str, Any]:
    """JSON Schema of a profile, for editors and other programs."""
    return msgspec.json.schema(ModbusProfile)
