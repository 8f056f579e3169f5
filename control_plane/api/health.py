from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import msgspec
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from control_plane.api.binding import Permission, Route
from control_plane.store.engine import Store, Stores


class Liveness(msgspec.Struct, frozen=True):
    status: Literal["ok"]


class StoreHealth(msgspec.Struct, frozen=True):
    ok: bool
    took_ms: float
    error: str | None = None


class HealthDetail(msgspec.Struct, frozen=True):
    status: Literal["ok", "degraded"]
    stores: dict[str, StoreHealth]
    roles: dict[str, int]
    """Process ids of the roles this server's supervisor runs; empty where none does."""


class RunFile(msgspec.Struct, frozen=True):
    pids: dict[str, int]


class Health:
    def __init__(self, *, stores: Stores, data_dir: Path) -> None:
        self._stores = stores
        self._run_file = data_dir / "run.json"

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="GET",
                path="/health",
                view=self.liveness,
                permission=Permission.PUBLIC,
                summary="Whether this process answers",
            ),
            Route(
                method="GET",
                path="/health/detail",
                view=self.detail,
                permission=Permission.VIEWER,
                summary="Stores and roles behind it",
            ),
        )

    def liveness(self) -> Liveness:
        return Liveness("ok")

    def detail(self) -> HealthDetail:
        stores = {store.name: _asked(store) for store in self._stores.all()}
        fine = all(store.ok for store in stores.values())
        return HealthDetail("ok" if fine else "degraded", stores, self._roles())

    def _roles(self) -> dict[str, int]:
        try:
            return msgspec.json.decode(self._run_file.read_bytes(), type=RunFile).pids
        except (OSError, msgspec.DecodeError):
            return {}


def _asked(store: Store) -> StoreHealth:
    started = time.monotonic()
    error = None
    try:
        with store.read() as connection:
            connection.execute(text("SELECT 1"))
    except SQLAlchemyError as failure:
        error = type(failure).__name__
    return StoreHealth(error is None, round((time.monotonic() - started) * 1000, 2), error)
