"""Structured logs on stderr: lines for people on a terminal, JSON lines for everything else."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor


def configure(*, role: str) -> None:
    """Once per process, before anything logs. The standard library's loggers come out in the same form."""

    def name_role(_logger: object, _method: str, line: EventDict) -> EventDict:
        line["role"] = role  # not a context variable: those don't reach threads
        return line

    shared: list[Processor] = [
        name_role,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    ending: list[Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if sys.stderr.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *ending],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)
