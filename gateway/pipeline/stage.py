"""The contract of a pipeline stage: a pure step over the rows of one group.

Built once per group, in the order of STAGES in `flow`. `build(shape, options, say)` returns the shape as it is to be
declared and the stage, None where this sensor's configuration asks for nothing of it; it may raise `Misconfigured`. A
stage keeps what it must remember of earlier rows, and forgets it with the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from gateway.reading import GroupShape, Row
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import SensorBase

Say = Callable[[pb.EventKind.ValueType, pb.Condition, pb.Severity.ValueType], bool]
"""Puts a condition into the URGENT lane; False if it was not taken: say it again later."""


class Stage(Protocol):
    def take(self, row: Row) -> Row | None:
        """The row as it goes on; None if it goes no further, by the configuration's own wish."""

    def explain(self, column: int, row: Row) -> Iterator[str]:
        """What it did with the newest row's value in that column, and why: for a person, made only when asked."""


Build = Callable[[GroupShape, SensorBase, Say], tuple[GroupShape, "Stage | None"]]
