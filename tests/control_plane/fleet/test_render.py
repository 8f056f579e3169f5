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
