from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from control_plane.fleet.authority import Authority
from tests.box import Box

NOW_MS = 1_763_805_600_000
DAY_MS = 86_400_000


def names_in(chain_pem: bytes) -> set[str]:
    certificate = x509.load_pem_x509_certificates(chain_pem)[0]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}


def test_a_second_opening_finds_the_same_authority(tmp_path: Path) -> None:
    first, second = Authority.open(tmp_path), Authority.open(tmp_path)
    assert first.fingerprint == second.fingerprint
    assert first.config_public_key == second.config_public_key


def test_ca_and_server_are_valid_from_1970(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path)
    server = authority.server_identity(("fleet.example.com",), now_ms=NOW_MS)
    chain = x509.load_pem_x509_certificates(server.chain_pem)
    assert [part.not_valid_before_utc for part in chain] == [datetime(1970, 1, 1, tzinfo=UTC)] * 2
    assert authority.certificate.not_valid_after_utc == datetime(2100, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("name", ["ca.key", "config.key", "server.pem"])
def test_private_files_are_for_their_owner_only(tmp_path: Path, name: str) -> None:
    Authority.open(tmp_path).server_identity((), now_ms=NOW_MS)
    assert (tmp_path / "pki" / name).stat().st_mode & 0o777 == 0o600


def test_a_crash_between_ca_key_and_certificate_is_repaired(tmp_path: Path) -> None:
    Authority.open(tmp_path)
    (tmp_path / "pki" / "ca.pem").unlink()
    repaired = Authority.open(tmp_path)
    assert repaired.certificate.public_key() == repaired.key.public_key()


def test_server_certificate_is_kept_while_it_fits(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path)
    first = authority.server_identity(("a.example",), now_ms=NOW_MS)
    assert authority.server_identity(("a.example",), now_ms=NOW_MS + 400 * DAY_MS) == first


def test_server_certificate_follows_a_new_name(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path)
    authority.server_identity(("a.example",), now_ms=NOW_MS)
    renamed = authority.server_identity(("10.1.2.3",), now_ms=NOW_MS)
    assert names_in(renamed.chain_pem) == {"10.1.2.3", "localhost", "127.0.0.1"}


def test_server_certificate_is_renewed_when_a_third_of_its_life_is_left(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path)
    first = authority.server_identity(("a.example",), now_ms=NOW_MS)
    assert authority.server_identity(("a.example",), now_ms=NOW_MS + 560 * DAY_MS) != first


def test_gateway_certificate_names_the_gateway_and_lasts_180_days(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path)
    issued = authority.sign_gateway(Box().key.public_key(), "gw-abcdefghij", now_ms=NOW_MS)
    assert issued.subject.rfc4514_string() == "CN=gw-abcdefghij"
    names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["urn:comboio:gateway:gw-abcdefghij"]
    assert issued.not_valid_after_utc.timestamp() * 1000 == NOW_MS + 180 * DAY_MS
    assert authority.issued(issued)
    assert not Authority.open(tmp_path / "other").issued(issued)
