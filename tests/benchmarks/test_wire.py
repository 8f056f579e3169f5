from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from benchmarks import baselines
from benchmarks.recordings import cuts, read_csv, traffic
from benchmarks.wire import measure, measured, own, sealed, verify
from protos.comboio.v1 import batch_pb2 as pb


def recording(folder: Path) -> Path:
    """240 s: a temperature, a counter that turns into a float in the second half, and a door in every third row."""
    rows = [
        f"{1_700_000_000_000 + second * 1000},{20 + second % 7 / 10},{second if second < 200 else f'{second}.5'},"
        f"{second % 2 if second % 3 == 0 else ''}"
        for second in range(240)
    ]
    path = folder / "room.csv.gz"
    path.write_bytes(gzip.compress("\n".join(["ts_ms,temperature,total,door", *rows]).encode()))
    return path


def test_blank_cells_split_a_file_into_groups_that_share_their_times(tmp_path: Path) -> None:
    always, sometimes = read_csv(recording(tmp_path))
    assert [column.name for column in always.columns] == ["temperature", "total"]
    assert (always.period_ms, len(always.times)) == (1000, 240)
    assert (sometimes.period_ms, len(sometimes.times), sometimes.columns[0].values[:3]) == (3000, 80, [0, 1, 0])


def test_only_the_first_half_decides_what_is_declared(tmp_path: Path) -> None:
    source = traffic(read_csv(recording(tmp_path)))
    temperature, total = source.declare.groups[0].series
    assert (temperature.type, temperature.exp, temperature.ref) == (pb.VT_FLOAT64, 1, 203)
    assert (total.type, total.ref) == (pb.VT_INT64, 59)


def test_what_arrives_is_compared_with_what_was_recorded(tmp_path: Path) -> None:
    source = traffic(read_csv(recording(tmp_path)))
    first, last = source.span
    cut = next(cuts(source, batch_ms=60_000, from_ms=first + 170_000, to_ms=last))
    batch = sealed(source, cut, seq=1)
    verify(source.schema, cut, batch)
    cut.values[0][1] = [*cut.values[0][1][:-1], 239]
    with pytest.raises(ValueError, match="not what was sent"):
        verify(source.schema, cut, batch)


def test_every_byte_above_tls_is_counted_over_a_real_stream(tmp_path: Path) -> None:
    source = traffic(read_csv(recording(tmp_path)))
    first, last = source.span
    many = list(cuts(source, batch_ms=10_000, from_ms=first + 119_500, to_ms=last))
    enveloped = sum(sealed(source, cut, seq=123_456).ByteSize() for cut in many)
    figure = measure("wire.room.10s", source, batch_s=10)
    overhead = (figure.value * sum(cut.count for cut in many) - enveloped) / len(many)
    assert 14 <= overhead <= 60  # a gRPC header of 5, a frame header of 9, and window updates


def test_a_recording_too_short_for_one_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no whole batch"):
        measure("wire.room.1h", traffic(read_csv(recording(tmp_path))), batch_s=3600)


def test_the_other_formats_carry_every_reading_too(tmp_path: Path) -> None:
    source = traffic(read_csv(recording(tmp_path)))
    many = measured(source, batch_s=60)
    document = json.loads(baselines.telemetry_json(source, many[0]))
    assert sum(len(row["values"]) for rows in document.values() for row in rows) == many[0].count
    _, payload = baselines._messages()
    metrics = payload.FromString(baselines.ndata(source, many[0], 7)).metrics  # type: ignore[attr-defined]
    assert len(metrics) == many[0].count
    assert {metric.alias for metric in metrics} == {0, 1, 2}
    assert baselines.published("t" * 20, bytes(100)) == 1 + 1 + 22 + 2 + 100
    assert baselines.published("t" * 20, bytes(200)) == 1 + 2 + 22 + 2 + 200


def test_a_dictionary_is_trained_on_the_first_half_only_and_its_bytes_are_counted(tmp_path: Path) -> None:
    noise = random.Random(3)
    habits = [[noise.randrange(30_000) for _ in range(10)] for _ in range(60)]
    values = [value for _ in range(400) for value in noise.choice(habits)]
    path = tmp_path / "machine.csv"
    path.write_text("\n".join(["ts_ms,turns", *(f"{at * 100},{value}" for at, value in enumerate(values))]))
    source = traffic(read_csv(path))
    packer = own(source, batch_s=2)
    assert packer is not None
    plain = measure("wire.machine_plain.2s", source, batch_s=2)
    assert measure("wire.machine.2s", source, batch_s=2, packer=packer).value < plain.value
    assert own(source, batch_s=10) is None  # twenty batches are too few to learn from
