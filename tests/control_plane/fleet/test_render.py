from __future__ import annotations

from control_plane.fleet.checks import check
from control_plane.fleet.render import Layer, by_id, differences, render
from firmware_configs.loader import Profiles

PROFILES = Profiles()


def test_later_layers_win_leaf_by_leaf_and_each_leaf_knows_its_layer() -> None:
    fleet = Layer("fleet", {"uplink": {"window": 8, "ack_timeout_s": 20}, "buffer": {"limit_mb": 100}})
    group = Layer("group/trucks", {"uplink": {"window": 4}})
    mine = Layer("gateway", {"gateway": {"name": "truck 17"}})
    document, provenance = render([fleet, group, mine])
    assert document["uplink"] == {"window": 4, "ack_timeout_s": 20}
    assert provenance["/uplink/window"] == "group/trucks"
    assert provenance["/uplink/ack_timeout_s"] == "fleet"
    assert provenance["/gateway/name"] == "gateway"
    assert provenance["/management"] == "default"


def test_arrays_of_tables_merge_by_id_in_the_order_of_the_base() -> None:
    fleet = Layer("fleet", {"sensor": [{"id": "a", "driver": "simulated"}, {"id": "b", "driver": "simulated"}]})
    mine = Layer("gateway", {"sensor": [{"id": "c", "driver": "simulated"}, {"id": "a", "every_s": 5}]})
    document, provenance = render([fleet, mine])
    assert [sensor["id"] for sensor in document["sensor"]] == ["a", "b", "c"]
    assert document["sensor"][0] == {"id": "a", "driver": "simulated", "every_s": 5}
    assert provenance["/sensor/a/every_s"] == "gateway"
    assert provenance["/sensor/a/id"] == provenance["/sensor/a/driver"] == "fleet"


def test_null_deletes_a_leaf_a_table_and_an_item_with_their_provenance() -> None:
    fleet = Layer("fleet", {"uplink": {"window": 8}, "buffer": {"limit_mb": 5}, "sensor": [{"id": "a"}, {"id": "b"}]})
    mine = Layer("gateway", {"uplink": {"window": None}, "buffer": None, "sensor": {"a": None, "b": {"every_s": 2}}})
    document, provenance = render([fleet, mine])
    assert document["uplink"] == {}
    assert "buffer" not in document
    assert document["sensor"] == [{"id": "b", "every_s": 2}]
    assert not [pointer for pointer in provenance if pointer.startswith(("/uplink", "/buffer", "/sensor/a"))]


def test_a_value_of_another_kind_replaces_what_was_there() -> None:
    document, provenance = render([Layer("fleet", {"uplink": {"window": 8}}), Layer("gateway", {"uplink": 3})])
    assert document["uplink"] == 3
    assert provenance["/uplink"] == "gateway"
    assert "/uplink/window" not in provenance


def test_layers_are_not_changed_by_rendering() -> None:
    fleet = {"sensor": [{"id": "a", "driver": "simulated"}], "uplink": {"window": 8}}
    render([Layer("fleet", fleet), Layer("gateway", {"sensor": {"a": {"every_s": 9}}, "uplink": {"window": 1}})])
    assert fleet == {"sensor": [{"id": "a", "driver": "simulated"}], "uplink": {"window": 8}}


def test_differences_are_leaf_by_leaf_and_name_items_by_their_id() -> None:
    before = {"sensor": [{"id": "a", "every_s": 1}, {"id": "b"}], "uplink": {"window": 8}}
    after = {"sensor": [{"id": "b"}, {"id": "a", "every_s": 2}]}
    found = differences(before, after)
    assert found == [("/sensor/a/every_s", 1, 2), ("/uplink/window", 8, None)]
    assert by_id("/sensor/1/every_s", after) == "/sensor/a/every_s"


def wrong(**parts: object) -> list[tuple[str, str]]:
    return [(m.pointer, m.message) for m in check(render([Layer("fleet", parts)]).document, PROFILES).mistakes]


def test_every_mistake_of_a_document_is_said_with_its_place() -> None:
    bus = {"id": "plc", "kind": "tcp", "host": "10.0.0.1"}
    meter = {"id": "meter", "driver": "modbus", "bus": "plk", "profile": "eastron-sdm121@1"}
    found = dict(wrong(bus=[bus], sensor=[meter]))
    assert "did you mean plc" in found["/sensor/0/bus"]
    assert "did you mean eastron-sdm120@1" in found["/sensor/0/profile"]
    assert dict(wrong(sensor=[{"id": "a", "driver": "simulated", "evry_s": 1}])).keys() == {"/sensor/0/evry_s"}
    assert dict(wrong(management="local")).keys() == {"/management"}
    (pointer, message), *_ = wrong(uplink={"window": "many"})
    assert (pointer, message) == ("/uplink/window", "expected int, got str")


def test_a_bus_that_cannot_carry_its_sensors_is_refused() -> None:
    bus = {"id": "plc", "kind": "tcp", "host": "10.0.0.1"}
    meters = [
        {"id": f"m{n}", "driver": "modbus", "bus": "plc", "unit": n, "profile": "eastron-sdm120@1", "every_s": 0.01}
        for n in range(1, 20)
    ]
    assert wrong(bus=[bus], sensor=[{**meters[0], "every_s": 1}]) == []
    ((pointer, message),) = wrong(bus=[bus], sensor=meters)
    assert pointer == "/bus/0"
    assert "% of what it can carry" in message


BROKER = {"id": "hall", "host": "127.0.0.1"}
PROBE: dict[str, object] = {
    "id": "probe",
    "driver": "ble",
    "address": "D4:12:43:55:AA:01",
    "profile": "ruuvi-ruuvitag@1",
}
CLIMATE: dict[str, object] = {"id": "climate", "driver": "mqtt", "broker": "hall", "topic": "zigbee2mqtt/climate"}
AQARA = {**CLIMATE, "profile": "aqara-wsdcgq11lm@1"}
OWN = {"load": {"path": "/load"}, "door": {"path": "/door", "type": "boolean"}, "say": {"path": "/s", "type": "string"}}


def test_what_a_gateway_that_listens_would_refuse_is_refused_at_the_save() -> None:
    assert wrong(broker=[BROKER], sensor=[PROBE, AQARA, {**CLIMATE, "id": "own", "values": OWN}]) == []
    heard: list[tuple[dict[str, object], str, str]] = [
        ({"profile": "ruuvi-ruuvitug@1"}, "/sensor/0/profile", "did you mean ruuvi-ruuvitag@1"),
        ({"profile": "ruuvi-ruuvitag@9"}, "/sensor/0/profile", "version 9 is not here"),
        ({"profile": "ruuvi"}, "/sensor/0/profile", "vendor-model@version"),
        ({"calibration": {"temprature": {}}}, "/sensor/0/calibration/temprature", "did you mean temperature"),
        ({"report": {"voltage": {}, "*": {}}}, "/sensor/0/report/voltage", "not a quantity of ruuvi"),
        ({"alarm": [{"quantity": "temperature"}]}, "/sensor/0/alarm/temperature", "either above or below"),
        ({"address": "d4:12"}, "/sensor/0/address", "expected"),
    ]
    for parts, pointer, words in heard:
        ((found, message),) = wrong(sensor=[PROBE | parts])
        assert (found, words in message) == (pointer, True), message
    published: list[tuple[dict[str, object], str, str]] = [
        ({"broker": "hal", "values": OWN}, "/sensor/0/broker", "did you mean hall"),
        ({"profile": "aqara-wsdcgq11lm@1", "values": OWN}, "/sensor/0/profile", "either a profile, or values"),
        ({}, "/sensor/0/profile", "either a profile, or values"),
        ({"profile": "aqara-wsdcgq11@1"}, "/sensor/0/profile", "did you mean aqara-wsdcgq11lm@1"),
        (
            {"values": {"door": {"path": "/d", "type": "boolean", "decimals": 1}}},
            "/sensor/0/values/door/decimals",
            "no",
        ),
        ({"values": OWN, "validate": {"lode": {}}}, "/sensor/0/validate/lode", "did you mean load"),
        ({"values": OWN, "calibration": {"door": {"gain": 2}}}, "/sensor/0/calibration/door", "a switch"),
        ({"values": OWN, "alarm": [{"quantity": "say", "above": 1}]}, "/sensor/0/alarm/say", "is a text"),
    ]
    for parts, pointer, words in published:
        ((found, message),) = wrong(broker=[BROKER], sensor=[CLIMATE | parts])
        assert (found, words in message) == (pointer, True), message
    twice = dict(wrong(broker=[BROKER, BROKER], sensor=[AQARA]))
    assert twice == {"/broker": "2 of them have the id 'hall'"}


def test_the_wrong_type_at_any_depth_is_told_with_its_place_and_all_at_once() -> None:
    sensor = {
        **CLIMATE,
        "values": {"load": {"path": 5, "decimals": "two"}, "Door": {"path": "/door"}, "deep": []},
        "report": {"load": {"deadband": "much"}},
        "alarm": [{"quantity": "load", "above": "high"}],
        "attrs": {"load": {"role": 3}},
    }
    found = dict(wrong(ble={"adapters": ["hci0", 7]}, broker=[{**BROKER, "port": "1883"}], sensor=[sensor], bus=3))
    assert found.keys() == {
        "/ble/adapters/1",
        "/broker/0/port",
        "/bus",
        "/sensor/0/values/load/path",
        "/sensor/0/values/load/decimals",
        "/sensor/0/values/Door",
        "/sensor/0/values/deep",
        "/sensor/0/report/load/deadband",
        "/sensor/0/alarm/0/above",
        "/sensor/0/attrs/load/role",
    }
    assert found["/sensor/0/values/load/path"] == "expected str, got int"
