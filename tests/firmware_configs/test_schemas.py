"""The JSON Schemas beside the profiles are those of the types, and every document of the library names its own."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

import jsonschema_rs
import msgspec
import pytest

import firmware_configs
from firmware_configs.schema import ModbusProfile
from firmware_configs.schemas import KINDS, json_schema, written

FOLDER = Path(firmware_configs.__file__).parent
DOCUMENTS = [path for kind in KINDS for path in sorted((FOLDER / kind).glob("*.toml"))]


@cache
def validator(kind: str) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(json_schema(KINDS[kind]))


def test_the_schema_describes_every_setting() -> None:
    schema = json_schema()
    assert set(schema["$defs"]["ModbusProfile"]["properties"]) == {
        field.encode_name for field in msgspec.structs.fields(ModbusProfile)
    }
    assert schema["$defs"]["Register"]["additionalProperties"] is False


def test_the_schema_carries_what_the_fields_say() -> None:
    assert json_schema()["$defs"]["Register"]["properties"]["unit"]["description"] == "UCUM code."


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_beside_the_profiles_is_that_of_the_types(kind: str) -> None:
    made = f"comboio-gateway profiles schema {kind} > firmware_configs/{kind}.schema.json"
    assert (FOLDER / f"{kind}.schema.json").read_text(encoding="utf-8") == written(KINDS[kind]), made


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_every_document_fits_the_schema_that_editors_check_it_by(path: Path) -> None:
    found = list(validator(path.parent.name).iter_errors(tomllib.loads(path.read_text(encoding="utf-8"))))
    assert [error.message for error in found] == []


def test_an_editor_finds_a_word_that_is_none() -> None:
    document = tomllib.loads((FOLDER / "modbus" / "xy-md02.toml").read_text(encoding="utf-8"))
    document["register"][0]["decimls"] = 1
    document["register"][1]["type"] = "int16"
    found = sorted("/".join(map(str, error.instance_path)) for error in validator("modbus").iter_errors(document))
    assert found == ["register/0", "register/1/type"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_every_document_tells_editors_its_schema(path: Path) -> None:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    assert first == f"#:schema ../{path.parent.name}.schema.json"
