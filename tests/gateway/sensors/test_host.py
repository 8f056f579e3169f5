"""The box itself: real /proc and /sys, and folders made as boards that have more show themselves."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from firmware_configs.host import HostValue
from firmware_configs.loader import Profiles
from gateway.errors import Misconfigured, Retryable
from gateway.sensors import host_clock
from gateway.sensors.host import HostSensor, had
from gateway.sensors.host_build import build
from gateway.sensors.host_clock import ClockFacts, by_chrony, by_kernel, by_timesyncd
from gateway.sensors.host_facts import Fact, InterfaceFacts, LinuxFacts, block_of
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import from_toml
from tests.gateway.sensors.listening import CLOCK, Facts
from tests.gateway.sensors.rig import until


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no reason to give chronyd up."""
    monkeypatch.setattr(host_clock, "WITHIN_S", 10.0)


BOX = Profiles().host("linux-box@1")
STAT = "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
MEMINFO = "MemTotal:  512000 kB\nMemFree: 100 kB\nMemAvailable:   256000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"


def files(root: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A small computer with eMMC, as its kernel shows it."""
    root = tmp_path / "root"
    device = tmp_path.stat().st_dev
    files(
        root,
        **{
            "proc/stat": STAT,
            "proc/meminfo": MEMINFO,
            "proc/loadavg": "0.50 0.25 0.10 1/100 1234",
            "proc/uptime": "3600.25 7000.00",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone0/temp": "48312",
            "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
            "sys/class/thermal/thermal_zone1/temp": "51000",
            "sys/class/hwmon/hwmon0/name": "nvme",
            "sys/class/hwmon/hwmon0/temp1_input": "39850",
            "sys/devices/mmc/block/mmcblk0/stat": "100 0 2048 30 200 0 4096 90 0 100 120",
            "sys/devices/mmc/block/mmcblk0/device/life_time": "0x02 0x01",
            "sys/devices/mmc/block/mmcblk0/device/pre_eol_info": "0x01",
            "sys/devices/mmc/block/mmcblk0/mmcblk0p2/partition": "2",
        },
    )
    link = root / "sys/dev/block" / f"{os.major(device)}:{os.minor(device)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(root / "sys/devices/mmc/block/mmcblk0/mmcblk0p2")
    return root


def test_a_board_with_emmc_tells_what_it_has(board: Path, tmp_path: Path) -> None:
    facts = LinuxFacts(disk=tmp_path, root=board)
    first = facts.read()
    files(board, **{"proc/stat": "cpu  150 0 150 770 130 0 0 0 0 0"})
    found = facts.read()
    assert first["cpu.percent"] == 20.0  # since the start
    assert found["cpu.percent"] == 50.0
    assert (found["cpu.load_1"], found["uptime"]) == (0.5, 3600.25)
    assert (found["cpu.temperature"], found["temperature.highest"], found["temperature.nvme"]) == (48.312, 51.0, 39.85)
    assert (found["memory.available"], found["memory.total"]) == (256000 * 1024, 512000 * 1024)
    assert "memory.swap_used" not in found
    assert found["disk.written"] == 4096 * 512
    assert (found["disk.life_used_a"], found["disk.life_used_b"], found["disk.pre_end_of_life"]) == (20, 10, 1)
    assert found["disk.free"] == pytest.approx(os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize, rel=0.5)


def test_ufs_tells_its_life_too_and_an_undefined_one_is_not_told(board: Path, tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    ufs = "sys/devices/ufshc/host0/target0/0:0:0:0"
    files(
        board,
        **{
            f"{ufs}/block/sda/stat": "1 1 1 1 1 1 1 1",
            "sys/devices/ufshc/health_descriptor/life_time_estimation_a": "0x03",
            "sys/devices/ufshc/health_descriptor/life_time_estimation_b": "0x00",
            "sys/devices/ufshc/health_descriptor/eol_info": "0x02",
        },
    )
    (board / ufs / "block/sda/device").symlink_to(board / ufs)
    link = board / "sys/dev/block" / f"{os.major(device)}:{os.minor(device)}"
    link.unlink()
    link.symlink_to(board / ufs / "block/sda")
    found = LinuxFacts(disk=tmp_path, root=board).read()
    assert (found["disk.life_used_a"], found["disk.pre_end_of_life"]) == (30, 2)
    assert "disk.life_used_b" not in found


def test_what_a_box_lacks_is_absent(board: Path, tmp_path: Path) -> None:
    here, absent = had(BOX, LinuxFacts(disk=tmp_path, root=tmp_path / "nothing").read())
    assert {value.quantity for value in here} == {"disk_free", "disk_total"}
    assert {"cpu_load", "cpu_temperature", "disk_life_used_a", "power_failing"} <= set(absent)


def test_nonsense_in_a_file_costs_only_its_facts(board: Path, tmp_path: Path) -> None:
    files(board, **{"proc/stat": "nonsense", "proc/meminfo": "", "sys/class/thermal/thermal_zone0/temp": "hot"})
    found = LinuxFacts(disk=tmp_path, root=board).read()
    assert "cpu.percent" not in found
    assert "memory.total" not in found
    assert found["temperature.highest"] == 51.0


def test_the_power_input_is_told_where_it_is_a_file(board: Path, tmp_path: Path) -> None:
    level = tmp_path / "value"
    level.write_text("1\n")
    assert LinuxFacts(disk=tmp_path, root=board, fail_input=str(level)).read()["power.failing"] is True
    os.mkfifo(tmp_path / "fifo")
    for fail_input in ("SIGPWR", "", str(tmp_path / "none"), str(tmp_path / "fifo")):
        assert "power.failing" not in LinuxFacts(disk=tmp_path, root=board, fail_input=fail_input).read()


def test_an_interface_counts_and_one_that_is_gone_tells_nothing(tmp_path: Path) -> None:
    assert InterfaceFacts("lo").read()["carrier"] is True
    at = "sys/class/net/wwan0"
    files(tmp_path, **{f"{at}/statistics/rx_bytes": "5000000000", f"{at}/statistics/tx_errors": "3"})
    files(tmp_path, **{f"{at}/operstate": "down", f"{at}/speed": "-1"})
    assert InterfaceFacts("wwan0", root=tmp_path).read() == {
        "received": 5_000_000_000,
        "send_errors": 3,
        "carrier": False,
    }
    assert InterfaceFacts("none0").read() == {}


# --- the clock ------------------------------------------------------------------------------------------


@contextmanager
def chronyd(reply: bytes) -> Iterator[tuple[str, int]]:
    """Answers every datagram so."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                said, who = listener.recvfrom(512)
                if not said:
                    return
                assert (said[0], said[1], said[5], len(said)) == (6, 1, 33, 104)
                listener.sendto(reply, who)

        thread = threading.Thread(target=serve)
        thread.start()
        address: tuple[str, int] = listener.getsockname()
        try:
            yield address
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
                ending.sendto(b"", address)
            thread.join()


def chrony_float(value: float) -> int:
    """As candm.h has it, for values that fit in 24 bits of coefficient at exponent -8."""
    exponent, coefficient = -8, round(value * (1 << 33))
    return (exponent & 0x7F) << 25 | (coefficient & 0x1FFFFFF)


def tracking(*, leap: int = 0, status: int = 0) -> bytes:
    head = struct.pack(">BBBBHHHHHHIII", 6, 2, 0, 0, 33, 5, status, 0, 0, 0, 1, 0, 0)
    body = struct.pack(">I16sHH", 0x7F7F0101, b"\x7f\0\0\1".ljust(16, b"\0"), 1, 0)
    body += struct.pack(">HHIII", 3, leap, 0, 1_700_000_000, 0)
    figures = [-0.00025, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0005, 0.000125, 0.0]
    return head + body + struct.pack(">9I", *map(chrony_float, figures))


def test_chronyd_is_asked_where_it_runs() -> None:
    with chronyd(tracking()) as address:
        found = by_chrony(address)
    assert found is not None
    assert (found["clock.source"], found["clock.synchronised"], found["clock.stratum"]) == ("chrony", True, 3)
    assert found["clock.offset"] == pytest.approx(-0.00025, rel=1e-4)
    assert found["clock.error_most"] == pytest.approx(0.00025 + 0.000125 + 0.00025, rel=1e-4)


def test_a_chronyd_that_follows_nobody_says_so() -> None:
    with chronyd(tracking(leap=3)) as address:
        assert by_chrony(address) == {"clock.source": "chrony", "clock.synchronised": False}


@pytest.mark.parametrize("reply", [b"x", tracking()[:-1], tracking(status=2), bytes(104)])
def test_what_is_no_answer_of_chronyd_is_none(reply: bytes) -> None:
    with chronyd(reply) as address:
        assert by_chrony(address) is None


def test_without_chronyd_the_kernel_is_asked_and_chronyd_only_now_and_then() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        nobody = free.getsockname()
    clock = ClockFacts(chrony=nobody, again=2)
    assert clock() == by_kernel() or clock()["clock.source"] == "kernel"
    with chronyd(tracking()) as address:
        clock._chrony = address
        assert [clock()["clock.source"] for _ in range(3)][-1] == "chrony"


def test_where_the_kernel_may_not_be_asked_timesyncd_has_left_its_word(tmp_path: Path) -> None:
    assert by_timesyncd(tmp_path / "none") == {}
    assert by_timesyncd(tmp_path) == {"clock.synchronised": False, "clock.source": "timesyncd"}
    (tmp_path / "synchronized").touch()
    assert by_timesyncd(tmp_path)["clock.synchronised"] is True


# --- as a sensor ----------------------------------------------------------------------------------------


def value(quantity: str, fact: str, **more: object) -> HostValue:
    return HostValue(quantity=quantity, fact=fact, source="test", **more)  # type: ignore[arg-type]


class Told:
    """What the box says next."""

    def __init__(self) -> None:
        self.facts: Mapping[str, Fact] | None = {"a": 1.26, "b": True}
        self.reads = 0

    def __call__(self) -> Mapping[str, Fact]:
        self.reads += 1
        if self.facts is None:
            raise Retryable("the box is silent")
        return self.facts


async def test_it_reads_at_its_pace_and_what_is_missing_is_told_by_its_quality() -> None:
    told, facts = Told(), Facts()
    values = [value("a", "a", decimals=1), value("b", "b", type="boolean")]
    sensor = HostSensor(sensor="box", values=values, absent=["c"], read=told, every_s=0.02, clock=CLOCK)
    with capture_logs() as said:
        running = asyncio.create_task(sensor.run(facts), name="box")
        await until(lambda: facts.rows)
        told.facts = {"a": 1.26}
        await until(lambda: facts.rows[-1].quality is not None)
        told.facts = None
        await until(lambda: sensor.problem == "the box is silent")
        failed = sensor.counters["failed"]
        told.facts = {"a": 2.0, "b": False}
        await until(lambda: facts.losts)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert facts.rows[0].values == (13, True)
    assert (pb.QUALITY_GOOD, pb.QUALITY_BAD_COMM) in [row.quality for row in facts.rows]
    (lost,) = facts.losts
    assert lost.reason == pb.GAP_UNREADABLE
    assert lost.reads >= failed > 0
    assert sensor.problem is None
    assert [one["event"] for one in said].count("host.absent") == 1
    assert "this box does not tell c" in list(sensor.plan(None))


def document(**options: str) -> str:
    lines = [f'{name} = "{text}"' for name, text in options.items()]
    return "\n".join(["config_version = 1", "[[sensor]]", 'id = "box"', 'driver = "host"', *lines])


async def test_this_box_tells_of_itself(tmp_path: Path) -> None:
    made = build(from_toml(document()), clock=CLOCK, profiles=Profiles(), data_dir=tmp_path)
    driver, facts = made.sensors[0].driver, Facts()
    names = [series.name for series in driver.groups()[0].series]
    assert {"cpu_load", "memory_available", "disk_free", "clock_synchronised", "uptime"} <= set(names)
    running = asyncio.create_task(driver.run(facts), name="box")
    await until(lambda: facts.rows)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    row = dict(zip(names, facts.rows[0].values, strict=True))
    assert 0 < int(row["memory_available"] or 0) < 1 << 50
    assert facts.rows[0].quality is None


def test_an_interface_that_is_up_has_what_it_tells_and_one_that_is_away_may_tell_all() -> None:
    wanted = {}
    for name in ("lo", "none0"):
        config = from_toml(document(profile="linux-interface@1", interface=name))
        (sensor,) = build(config, clock=CLOCK, profiles=Profiles()).sensors
        wanted[name] = {series.name for series in sensor.driver.groups()[0].series}
    assert "speed" not in wanted["lo"]
    assert wanted["none0"] == set(Profiles().host("linux-interface@1").quantities())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"profile": "linux-interface@1"}, "interface is needed"),
        ({"profile": "gpsd-receiver@1"}, "gpsd-receiver@1 is what gpsd tells, not linux or interface"),
        ({"profile": "linux-boxx@1"}, "did you mean linux-box@1"),
    ],
)
def test_a_mistake_is_told(options: dict[str, str], why: str) -> None:
    with pytest.raises(Misconfigured, match=why):
        build(from_toml(document(**options)), clock=CLOCK, profiles=Profiles())


def test_a_disk_without_a_device_has_none() -> None:
    assert block_of(Path("/proc")) is None
