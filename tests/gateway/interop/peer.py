"""Modbus stacks that are not ours, as programs: libmodbus by ctypes, pyModbusTCP.

python peer.py serve libmodbus-tcp | libmodbus-rtu PATH | pymodbustcp     prints the port, serves until killed
python peer.py ask libmodbus-tcp PORT | libmodbus-rtu PATH | pymodbustcp PORT     operations as JSON on standard input
Tables are filled by `holds`.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
import threading
from typing import Any

BITS, WORDS = 2100, 600
BAUD = 115_200


def holds(table: int, address: int) -> int:
    """What a server shows at first; table by the function that reads it."""
    word = (address * 40503 + table * 7919 + 1) & 0xFFFF
    return word & 1 if table in {1, 2} else word


class Mapping(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("nb_bits", "start_bits", "nb_input_bits", "start_input_bits")),
        *((name, ctypes.c_int) for name in ("nb_in_regs", "start_in_regs", "nb_registers", "start_registers")),
        *((name, ctypes.POINTER(ctypes.c_uint8)) for name in ("bits", "input_bits")),
        *((name, ctypes.POINTER(ctypes.c_uint16)) for name in ("input_registers", "registers")),
    )


def library() -> Any:
    lib = ctypes.CDLL("libmodbus.so.5", use_errno=True)
    lib.modbus_new_tcp.restype = lib.modbus_new_rtu.restype = ctypes.c_void_p
    lib.modbus_mapping_new.restype = ctypes.POINTER(Mapping)
    for name in ("receive", "reply", "connect", "close", "set_slave", "tcp_listen", "tcp_accept", "free"):
        getattr(lib, f"modbus_{name}").argtypes = None
    return lib


def context(lib: Any, kind: str, where: str) -> ctypes.c_void_p:
    if kind == "libmodbus-tcp":
        made = lib.modbus_new_tcp(b"127.0.0.1", int(where or 0))
    else:
        made = lib.modbus_new_rtu(where.encode(), BAUD, ctypes.c_char(b"N"), 8, 1)
    assert made
    held = ctypes.c_void_p(made)
    lib.modbus_set_slave(held, 1)
    return held


def serve_libmodbus(kind: str, where: str) -> None:
    lib = library()
    ctx = context(lib, kind, where)
    tables = lib.modbus_mapping_new(BITS, BITS, WORDS, WORDS)
    for address in range(BITS):
        tables.contents.bits[address] = holds(1, address)
        tables.contents.input_bits[address] = holds(2, address)
    for address in range(WORDS):
        tables.contents.registers[address] = holds(3, address)
        tables.contents.input_registers[address] = holds(4, address)
    listening = ctypes.c_int(-1)
    if kind == "libmodbus-tcp":
        listening = ctypes.c_int(lib.modbus_tcp_listen(ctx, 1))
        with socket.socket(fileno=os.dup(listening.value)) as bound:
            say(bound.getsockname()[1])
    else:
        assert lib.modbus_connect(ctx) == 0, os.strerror(ctypes.get_errno())
        say(0)
    query = (ctypes.c_uint8 * 260)()
    while True:
        if kind == "libmodbus-tcp":
            lib.modbus_tcp_accept(ctx, ctypes.byref(listening))
        while (size := lib.modbus_receive(ctx, query)) >= 0:
            if size:
                lib.modbus_reply(ctx, query, size, tables)
        if kind == "libmodbus-tcp":
            lib.modbus_close(ctx)


def serve_pymodbustcp() -> None:
    from pyModbusTCP.server import DataBank, DeviceIdentification, ModbusServer

    bank = DataBank()
    bank.set_coils(0, [bool(holds(1, address)) for address in range(BITS)])
    bank.set_discrete_inputs(0, [bool(holds(2, address)) for address in range(BITS)])
    bank.set_holding_registers(0, [holds(3, address) for address in range(WORDS)])
    bank.set_input_registers(0, [holds(4, address) for address in range(WORDS)])
    said = DeviceIdentification(
        vendor_name=b"Acme", product_code=b"PM-1", major_minor_revision=b"1.2", model_name=b"M", objects_id={128: b"x"}
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = ModbusServer(host="127.0.0.1", port=port, no_block=True, data_bank=bank, device_id=said)
    server.start()
    say(port)
    threading.Event().wait()


def ask_libmodbus(kind: str, where: str) -> list[Any]:
    lib = library()
    ctx = context(lib, kind, where)
    lib.modbus_set_response_timeout(ctx, 5, 0)
    assert lib.modbus_connect(ctx) == 0, os.strerror(ctypes.get_errno())
    return [_libmodbus(lib, ctx, *one) for one in json.load(sys.stdin)]


def _libmodbus(lib: Any, ctx: ctypes.c_void_p, function: int, address: int, argument: Any) -> Any:
    if function <= 4:
        name, kind = (
            ("bits", ctypes.c_uint8),
            ("input_bits", ctypes.c_uint8),
            ("registers", ctypes.c_uint16),
            ("input_registers", ctypes.c_uint16),
        )[function - 1]
        found = (kind * argument)()
        got = getattr(lib, f"modbus_read_{name}")(ctx, address, argument, found)
        return list(found) if got == argument else _error(lib)
    if function in {5, 6}:
        name = "bit" if function == 5 else "register"
        got = getattr(lib, f"modbus_write_{name}")(ctx, address, argument)
    elif function == 22:
        got = lib.modbus_mask_write_register(ctx, address, *map(ctypes.c_uint16, argument))
    else:
        name, kind = ("bits", ctypes.c_uint8) if function == 15 else ("registers", ctypes.c_uint16)
        got = getattr(lib, f"modbus_write_{name}")(ctx, address, len(argument), (kind * len(argument))(*argument))
    return got if got >= 0 else _error(lib)


def _error(lib: Any) -> str:
    lib.modbus_strerror.restype = ctypes.c_char_p
    return str(lib.modbus_strerror(ctypes.get_errno()).decode())


def ask_pymodbustcp(where: str) -> list[Any]:
    from pyModbusTCP.client import ModbusClient

    client = ModbusClient(host="127.0.0.1", port=int(where), unit_id=1, timeout=5.0)
    reads = {
        1: client.read_coils,
        2: client.read_discrete_inputs,
        3: client.read_holding_registers,
        4: client.read_input_registers,
        5: client.write_single_coil,
        6: client.write_single_register,
        15: client.write_multiple_coils,
        16: client.write_multiple_registers,
    }
    found = []
    for function, address, argument in json.load(sys.stdin):
        got = reads[function](address, argument)
        found.append([int(one) for one in got] if isinstance(got, list) else got or client.last_except_as_txt)
    client.close()
    return found


def say(port: int) -> None:
    print(json.dumps({"port": port}), flush=True)


def main() -> None:
    what, kind, where = (*sys.argv[1:], "")[:3]
    if what == "serve":
        serve_pymodbustcp() if kind == "pymodbustcp" else serve_libmodbus(kind, where)
    else:
        print(json.dumps(ask_pymodbustcp(where) if kind == "pymodbustcp" else ask_libmodbus(kind, where)))


if __name__ == "__main__":
    main()
