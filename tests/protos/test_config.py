"""Two documents that mean the same have the same canonical bytes."""

from __future__ import annotations

import msgspec
import pytest

from protos.config import canonical, digest, from_json, from_toml
from protos.strict import DocumentError

SHORT = """
config_version = 1
[[sensor]]
driver = "simulated"
id = "probe"
every_s = 2
"""
LONG = """
config_version = 1
management = "local"
[gateway]
[uplink]
window = 16
batch_interval_s = 10
[[sensor]]
every_s = 2.0
signal = "sine"
id = "probe"
driver = "simulated"
[sensor.quantities]
temperature = "Cel"
"""


def test_defaults_order_and_spelling_do_not_change_the_bytes() -> None:
    assert canonical(from_toml(SHORT)) == canonical(from_toml(LONG))
    assert digest(canonical(from_toml(SHORT))) == digest(canonical(from_toml(LONG)))


def test_a_difference_in_meaning_does() -> None:
    assert canonical(from_toml(SHORT)) != canonical(from_toml(SHORT.replace("2", "3")))
    assert canonical(from_toml(SHORT)) != canonical(from_toml(SHORT + "[sensor.calibration.temperature]\n"))


def test_the_bytes_are_read_back_as_the_same_document_and_give_the_same_bytes() -> None:
    document = canonical(from_toml(LONG))
    assert from_json(document) == from_toml(SHORT)
    assert canonical(from_json(document)) == document
    assert b'"driver":"simulated"' in document
    assert b"window" not in document


def test_a_pushed_document_is_read_as_strictly_as_a_written_one() -> None:
    with pytest.raises(DocumentError, match=r"sensor\[0\].evry_s: not a setting"):
        from_json(b'{"config_version":1,"sensor":[{"driver":"simulated","id":"a","evry_s":1}]}')
    with pytest.raises(msgspec.DecodeError):
        from_json(b"{")
