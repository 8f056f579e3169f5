"""Children of a demo or a journey: started by command line only, watched, and ended with their starter."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from control_plane.lifeline import command

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 4.0


class StartError(RuntimeError):
    """A child ended, or said nothing, before it was ready; the text holds its last words."""


class Child:
    """One process. Its first line of JSON on stdout says that it is ready; stderr goes to a log file."""

    def __init__(self, name: str, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._argv = argv
        self._log = log
        self._env = env or {}
        self._process: subprocess.Popen[bytes] | None = None
        self.said: dict[str, Any] = {}
        self.starts = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start and wait for its first line. Raises StartError."""
        self.begin()
        self.wait_ready()
        return self

    def begin(self) -> None:
        """Start without waiting."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command(*self._argv),
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self._env},
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.starts += 1
        self._lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def wait_ready(self) -> None:
        try:
            line = self._lines.get(timeout=START_TIMEOUT_S)
        except queue.Empty:
            raise StartError(f"{self.name} said nothing for {START_TIMEOUT_S:.0f} s\n{self.last_words()}") from None
        if not line:
            raise StartError(f"{self.name} ended at once\n{self.last_words()}")
        self.said = json.loads(line)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """SIGTERM, then SIGKILL for one that does not listen."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-8:])
        return ""

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._lines.put(line)
        self._lines.put(b"")


class Family:
    """All children of one run; leaving the context stops the newest first, all within a few seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._children: list[Child] = []

    def child(self, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> Child:
        """One of our own programs: `python -m …`."""
        return self.program(name, sys.executable, "-m", *arguments, env=env)

    def program(self, name: str, *argv: str, env: Mapping[str, str] | None = None) -> Child:
        made = Child(name, argv, log=self.folder / f"{name}.log", env=env)
        self._children.append(made)
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self._children):
            if child.alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGTERM)
        end = time.monotonic() + STOP_TIMEOUT_S
        for child in reversed(self._children):
            child.stop(max(0.1, end - time.monotonic()))
