"""An editor of the registry over the REST API."""

from __future__ import annotations

from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import insert
from werkzeug.test import TestResponse

from control_plane.store.engine import Stores
from control_plane.store.tables import series

NEW = '"0"'
SQUARE = [[0, 0], [0, 1], [1, 1], [1, 0], [0, 0]]


class Api:
    """One caller's calls; every edit names the version it is based on."""

    def __init__(self, client: FlaskClient, token: str) -> None:
        self._client = client
        self._headers = {"Authorization": f"Bearer {token}"}

    def ask(self, method: str, path: str, body: Any = None, *, etag: str | None = None) -> TestResponse:
        headers = self._headers | ({"If-Match": etag} if etag is not None else {})
        sent = {"json": body} if body is not None else {}
        return self._client.open("/api/v1" + path, method=method, headers=headers, **sent)

    def get(self, path: str, *, expect: int = 200) -> Any:
        answer = self.ask("GET", path)
        assert answer.status_code == expect, answer.text
        return answer.get_json(force=True)

    def do(self, method: str, path: str, body: Any = None, *, etag: str | None = None, expect: int = 200) -> Any:
        answer = self.ask(method, path, body, etag=etag)
        assert answer.status_code == expect, answer.text
        return answer.get_json(force=True) if answer.data else None

    def ids(self, path: str, name: str = "id") -> list[str]:
        return [item[name] for item in self.get(path)["items"]]


def gateway(admin: Api, name: str, *groups: str) -> str:
    made = admin.do("POST", "/gateways", {"name": name, "groups": list(groups)}, expect=201)
    return str(made["gateway"]["id"])


def group(admin: Api, slug: str, *members: str) -> None:
    admin.do("PUT", f"/groups/{slug}", {"members": list(members)}, etag=NEW)


def declare(stores: Stores, gateway_id: str, sensor: str) -> None:
    row = {"key": f"{gateway_id}/{sensor}/temperature", "gateway": gateway_id, "sensor": sensor, "name": "temperature"}
    more = {"unit": "Cel", "type": 1, "period_ms": 1000, "attrs": "{}", "epoch": 1, "schema": 1, "group_id": 1}
    with stores.telemetry.write() as connection:
        connection.execute(insert(series).values(**row, **more, series_id=1))
