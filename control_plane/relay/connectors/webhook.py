"""A signed webhook: CloudEvents 1.0 in structured mode, Standard Webhooks signature.

Sources: CloudEvents HTTP binding 1.0 §3.2; Standard Webhooks 1.0 (headers, signature, retry semantics, SSRF).
No redirects are followed; private addresses are refused unless the destination allows them, at every attempt, because a
name may resolve differently tomorrow.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import httpx
from msgspec import Meta
from standardwebhooks import Webhook

from control_plane.errors import Misconfigured
from control_plane.relay.connector import Found, Outcome, Parcel
from control_plane.settings import Destination

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
MAX_ANSWER_BYTES = 64 * 1024
PERMANENT = frozenset({400, 404, 405, 406, 409, 411, 413, 414, 415, 417, 422})


class WebhookDestination(Destination, frozen=True, kw_only=True):
    url: Annotated[str, Meta(pattern="^https?://", title="http:// or https:// URL")]
    """Events are POSTed here, signed as Standard Webhooks."""
    secret_file: str
    """File with the signing secret (whsec_…); relative to this file's folder."""
    allow_private: bool = False
    """Allow loopback and private addresses."""

    @property
    def host(self) -> str | None:
        return urlsplit(self.url).hostname


class WebhookConnector:
    """Delivers to one URL. `find` can't ask a webhook."""

    Options = WebhookDestination

    def __init__(self, destination: WebhookDestination) -> None:
        self._destination = destination
        try:
            secret = Path(destination.secret_file).read_text(encoding="ascii").strip()
            self._signer = Webhook(secret)
        except (OSError, ValueError) as error:
            raise Misconfigured(f"integrations/{destination.name}.toml: secret_file: {error}") from error
        try:
            self._url = httpx.URL(destination.url)
        except httpx.InvalidURL as error:
            raise Misconfigured(f"integrations/{destination.name}.toml: url: {error}") from error
        self._extensions = {"timeout": {"connect": 0.9 * destination.timeout_s}}  # then surely nothing was sent
        self._tls = httpx.create_ssl_context(trust_env=False)
        self._every: list[httpx.AsyncHTTPTransport] = []
        self._free: list[httpx.AsyncHTTPTransport] = []

    @contextmanager
    def _connection(self) -> Iterator[httpx.AsyncHTTPTransport]:
        """One kept connection; a pool of many would look at each of them for every request.

        The bare transport: no redirects, no cookies, no environment, and half a client's cost.
        """
        if not self._free:
            made = httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False, limits=httpx.Limits(max_connections=1))
            self._every.append(made)
            self._free.append(made)
        transport = self._free.pop()
        try:
            yield transport
        finally:
            self._free.append(transport)

    async def _post(self, parcel: Parcel) -> Outcome:
        now = datetime.now(UTC)
        headers = {
            "Content-Type": CONTENT_TYPE,
            "User-Agent": "comboio-relay",
            "Accept-Encoding": "identity",
            "webhook-id": parcel.event_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(parcel.event_id, now, parcel.body.decode()),
            "Idempotency-Key": f'"{parcel.event_id}"',
        }
        request = httpx.Request("POST", self._url, content=parcel.body, headers=headers, extensions=self._extensions)
        with self._connection() as transport:
            answer = await transport.handle_async_request(request)
            assert isinstance(answer.stream, httpx.AsyncByteStream)
            body = b""
            try:
                async for chunk in answer.stream:
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        break
            finally:
                await answer.stream.aclose()
        return classify(answer.status_code, answer.headers, body)

    async def deliver(self, parcel: Parcel) -> Outcome:
        """One POST; `timeout_s` is for the whole of it, looking the name up included."""
        looked_up = False
        try:
            async with asyncio.timeout(self._destination.timeout_s):
                refused = await self._refused_address()
                looked_up = True
                if refused is not None:
                    return Outcome("AUTH", error=refused)
                return await self._post(parcel)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return Outcome("TRANSIENT", error=f"not reachable: {error or type(error).__name__}")
        except (TimeoutError, httpx.TimeoutException):
            waited = f"no answer within {self._destination.timeout_s:g} s"
            return Outcome("AMBIGUOUS", error=waited) if looked_up else Outcome("TRANSIENT", error=f"DNS: {waited}")
        except (httpx.UnsupportedProtocol, UnicodeError) as error:
            return Outcome("AUTH", error=f"{self._destination.url}: {error}")
        except httpx.HTTPError as error:
            return Outcome("AMBIGUOUS", error=f"connection broke after sending: {error or type(error).__name__}")

    async def find(self, ext_ref: str) -> Found:
        del ext_ref
        return Found(None)

    async def close(self) -> None:
        for transport in self._every:
            await transport.aclose()

    async def _refused_address(self) -> str | None:
        if self._destination.allow_private:
            return None
        url = urlsplit(self._destination.url)
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(url.hostname, url.port or url.scheme, type=socket.SOCK_STREAM)
        except OSError:
            return None  # the request itself will say so, as something to retry
        for *_, address in found:
            if not ipaddress.ip_address(address[0]).is_global:
                return f"{url.hostname} is a private address ({address[0]}); set allow_private = true to allow it"
        return None


def classify(status: int, headers: httpx.Headers, body: bytes) -> Outcome:
    """The class of an HTTP answer."""
    text = body[:500].decode(errors="replace") if len(body) <= MAX_ANSWER_BYTES else "(long answer)"
    if 200 <= status < 300:
        return Outcome("OK", status, erp_id=headers.get("x-document-id"))
    error = f"HTTP {status}: {text}".strip().rstrip(":")
    wait = _retry_after(headers.get("retry-after", ""))
    if status == 429 or (status == 503 and wait is not None):
        return Outcome("THROTTLED", status, error, wait)
    if status in {502, 503, 504}:
        return Outcome("TRANSIENT", status, error, wait)
    if status in {401, 403}:
        return Outcome("AUTH", status, error)
    if status == 410:
        return Outcome("GONE", status, error)
    if status in PERMANENT or 300 <= status < 400:
        return Outcome("PERMANENT", status, error)
    return Outcome("AMBIGUOUS", status, error)


def _retry_after(value: str) -> float | None:
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
