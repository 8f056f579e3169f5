"""How gunicorn serves the web role: one worker of threads, on a socket that is already open."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gunicorn.glogging import Logger  # type: ignore[import-untyped]

from control_plane.lifeline import die_with_parent
from control_plane.settings import Settings

WORKER_SILENT_S = 30
GRACE_S = 2


def options(
    settings: Settings,
    *,
    descriptor: int,
    tls_bundle: Path | None,
    ready: Callable[[], None],
    follow: Callable[[Callable[[], bool]], None],
) -> dict[str, Any]:
    """Gunicorn settings for a listening socket `descriptor`; TLS when there is a bundle of key and chain.

    `follow` is handed, in the worker, what tells whether the worker goes on: live streams would outlast it.
    Readiness is told from `post_worker_init`: `when_ready` fires before the application was even imported.
    """

    def post_fork(_arbiter: Any, worker: Any) -> None:
        die_with_parent(worker.ppid)  # a killed master must not leave a worker that answers

    def post_worker_init(worker: Any) -> None:
        follow(lambda: bool(worker.alive))
        ready()

    chosen: dict[str, Any] = {
        "bind": [f"fd://{descriptor}"],
        "workers": 1,
        "worker_class": "gthread",
        "threads": settings.web.threads + settings.web.streams,
        "timeout": WORKER_SILENT_S,
        "graceful_timeout": GRACE_S,
        "keepalive": 15,
        "control_socket_disable": True,
        "proc_name": "comboio-control web",
        "logger_class": QuietLogger,
        "post_fork": post_fork,
        "post_worker_init": post_worker_init,
    }
    if os.access("/dev/shm", os.W_OK):  # noqa: S108 - the heartbeat file must not wait for a disk
        chosen["worker_tmp_dir"] = "/dev/shm"  # noqa: S108
    if tls_bundle is not None:
        chosen |= {"certfile": str(tls_bundle), "keyfile": str(tls_bundle)}
    return chosen


class QuietLogger(Logger):  # type: ignore[misc]
    """gunicorn's own lines through the process's one handler; no access log."""

    def setup(self, cfg: Any) -> None:
        self.error_log.handlers.clear()
        self.access_log.handlers.clear()
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)
        self.cfg = cfg
