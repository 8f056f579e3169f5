"""A person with a browser, over Flask's test client: cookies are kept, forms are sent with the key of their page."""

from __future__ import annotations

import re

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

KEY = re.compile(r'name="form_key" value="([0-9a-f]{64})"')


class Browser:
    def __init__(self, client: FlaskClient) -> None:
        self.client = client

    def get(self, path: str) -> TestResponse:
        return self.client.get(path)

    def text(self, path: str, language: str = "en") -> str:
        answer = self.client.get(path, headers={"Accept-Language": language})
        assert answer.status_code == 200, answer.text
        return answer.text

    def key(self, page: str) -> str:
        found = KEY.search(self.client.get(page).text)
        assert found, f"{page} has no form"
        return found[1]

    def send(self, path: str, page: str, **fields: str) -> TestResponse:
        """Fill in the form on `page` and send it to `path`."""
        return self.client.post(path, data={"form_key": self.key(page), **fields})

    def sign_in(self, name: str, password: str) -> TestResponse:
        return self.send("/login", "/login", name=name, password=password)
