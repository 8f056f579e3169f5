"""Calls to the REST API; what can go wrong is either Refused or Unreachable."""

from __future__ import annotations

import ssl
from typing import Any, BinaryIO

import httpx
import msgspec

from control_plane.console.profile import Profile, UsageError

TIMEOUT_S = 30.0
PAGE = 500
NOT_FOUND = 404


class Refused(Exception):  # noqa: N818 - named for what the server did
    """The server answered with a problem."""


class Missing(Refused):
    """There is no such thing."""


class Unreachable(Exception):  # noqa: N818
    """No answer, or one that is not this API's."""


class Client:
    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    def get(self, path: str, **query: Any) -> Any:
        return self._ask("GET", path, params={name: value for name, value in query.items() if value is not None})

    def post(self, path: str, body: Any, *, key: str | None = None) -> Any:
        """`key`: for what must not be done twice, its Idempotency-Key."""
        return self._ask("POST", path, json=body, headers={} if key is None else {"Idempotency-Key": key})

    def put(self, path: str, body: Any, *, if_match: str) -> Any:
        return self._ask("PUT", path, json=body, headers={"If-Match": if_match})

    def patch(self, path: str, body: Any, *, if_match: str) -> Any:
        return self._ask("PATCH", path, json=body, headers={"If-Match": if_match})

    def delete(self, path: str, *, if_match: str | None = None) -> None:
        self._ask("DELETE", path, headers={} if if_match is None else {"If-Match": if_match})

    def find(self, path: str) -> Any:
        """None where there is nothing."""
        try:
            return self.get(path)
        except Missing:
            return None

    def log_in(self, user: str, password: str, asked: Any) -> Any:
        return self._ask("POST", "/api-tokens", json=asked, auth=httpx.BasicAuth(user, password))

    def listed(self, path: str, *, limit: int, **query: Any) -> dict[str, Any]:
        """Up to `limit` items, page after page; `next` is where more begin."""
        items: list[Any] = []
        cursor = None
        while True:
            page = self.get(path, limit=max(1, min(PAGE, limit - len(items))), cursor=cursor, **query)
            items += page["items"]
            cursor = page["next"]
            if cursor is None or len(items) >= limit:
                return {"items": items, "next": cursor}

    def download(self, path: str, into: BinaryIO, **query: Any) -> tuple[int, str | None]:
        """Write the answer's body as it comes; returns its bytes, and before when nothing is kept any more."""
        params = {name: value for name, value in query.items() if value is not None}
        url, headers = self._where(path)
        size = 0
        try:
            with (
                httpx.Client(verify=self._trust(), timeout=TIMEOUT_S, trust_env=False) as client,
                client.stream("GET", url, headers=headers, params=params) as answer,
            ):
                if not answer.is_success:
                    answer.read()
                    self._read(answer)
                gone = answer.headers.get("Comboio-Not-Kept-Before")
                for piece in answer.iter_bytes():
                    size += into.write(piece)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(f"{url}: {error}; what came of the file is not whole") from None
        return size, gone

    def _ask(self, method: str, path: str, **parts: Any) -> Any:
        url, headers = self._where(path)
        headers |= parts.pop("headers", {})
        try:
            with httpx.Client(verify=self._trust(), timeout=TIMEOUT_S, trust_env=False) as client:
                answer = client.request(method, url, headers=headers, **parts)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(f"{url}: {error}") from None
        return self._read(answer)

    def _where(self, path: str) -> tuple[str, dict[str, str]]:
        url = self.profile.server.rstrip("/") + "/api/v1" + path
        return url, {"Authorization": f"Bearer {self.profile.token}"}

    def _trust(self) -> ssl.SSLContext | bool:
        if self.profile.ca is None or not self.profile.server.startswith("https:"):
            return True
        try:
            return ssl.create_default_context(cafile=self.profile.ca)
        except OSError as error:
            raise UsageError(f"--ca {self.profile.ca}: {error}") from None

    @staticmethod
    def _read(answer: httpx.Response) -> Any:
        try:
            document = msgspec.json.decode(answer.content) if answer.content else None
        except msgspec.DecodeError:
            raise Unreachable(f"{answer.url} answered {answer.status_code} and no JSON: is it the right URL?") from None
        if answer.is_success:
            return document
        problem = document if isinstance(document, dict) else {}
        lines = [f"{problem.get('title', 'refused')} ({answer.status_code}) {problem.get('detail', '')}".rstrip()]
        lines += [f"  {wrong['pointer']}: {wrong['message']}" for wrong in problem.get("errors", [])]
        raise (Missing if answer.status_code == NOT_FOUND else Refused)("\n".join(lines))
