"""From asking to the one result: keys, numbers, states, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert, select, update

from control_plane.errors import Conflict, NotFound
from control_plane.fleet import commands, outcomes
from control_plane.fleet.commands import AGAIN_FOR_MS, Commands
from control_plane.fleet.dispatch import Dispatch
from control_plane.fleet.outcomes import Outcomes
from control_plane.fleet.rights import Caller, Role
from control_plane.projections.commands import result_row
from control_plane.store.engine import Stores
from control_plane.store.tables import command, command_result, presence
from control_plane.store.upsert import keep_first
from gateway.commands.door import refusal
from protos.comboio.v1 import link_pb2 as wire
from protos.commands import Outcome, Write, encoded
from tests.control_plane.fleet.fleets import register
from tests.control_plane.sealing import GATEWAY, OTHER

ANA, RUI = Caller("ana", "ana", Role.OPERATOR), Caller("rui", "rui", Role.OPERATOR)
COLDER = Write(sensor="cooling", quantity="setpoint", value=-4.5)


class Turned:
    now = 1_800_000_000_000

    def now_ms(self) -> int:
        return self.now


class Office:
    def __init__(self, stores: Stores) -> None:
        register(stores, GATEWAY, OTHER)
        self.stores, self.clock, self.key = stores, Turned(), Ed25519PrivateKey.generate()
        self.commands = Commands(stores=stores, clock=self.clock)
        self.dispatch = Dispatch(stores, self.key, self.clock)
        self.outcomes = Outcomes(stores, self.clock)

    def ask(self, write: Write = COLDER, *, key: str = "k", caller: Caller = ANA, ttl_s: int = 60) -> Any:
        return self.commands.ask(GATEWAY, write, ttl_s=ttl_s, key=key, caller=caller)

    def told(
        self, id_: str, state: wire.CommandState.ValueType = wire.COMMAND_DONE, *, gateway: str = GATEWAY, **said: Any
    ) -> None:
        """As the projection keeps what a gateway says."""
        result = wire.CommandResult(id=id_, state=state, text="words", result=encoded(Outcome(**said)))
        with self.stores.telemetry.write() as connection:
            keep_first(connection, command_result, result_row(gateway, result.SerializeToString(), self.clock.now))

    def row(self, id_: str) -> Any:
        with self.stores.business.read() as connection:
            return connection.execute(select(command).where(command.c.id == id_)).one()


@pytest.fixture
def office(stores: Stores) -> Office:
    return Office(stores)


def test_the_same_key_again_is_the_same_command(office: Office) -> None:
    first = office.ask()
    assert office.ask().id == first.id
    assert office.ask(key="other").id != first.id
    assert office.ask(caller=RUI).id != first.id
    for changed in ({"write": Write(sensor="cooling", quantity="setpoint", value=-5)}, {"ttl_s": 61}):
        with pytest.raises(Conflict, match="was given to another command"):
            office.ask(**changed)


def test_numbers_rise_whatever_the_clock_does(office: Office) -> None:
    numbers = []
    for key, now in (("a", 1_800_000_000_000), ("b", 1_700_000_000_000), ("c", 1_900_000_000_000)):
        office.clock.now = now
        numbers.append(office.ask(key=key).number)
    assert numbers == [1_800_000_000_000, 1_800_000_000_001, 1_900_000_000_000]


def test_who_is_not_there_or_retired_is_asked_nothing(office: Office) -> None:
    with pytest.raises(NotFound):
        office.commands.ask("gw-nobodyatal", COLDER, ttl_s=60, key="k", caller=ANA)


def test_too_many_open_ones_are_refused(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "MOST_OPEN", 3)
    for n in range(3):
        office.ask(key=str(n))
    with pytest.raises(Conflict, match="wait for a result already"):
        office.ask(key="one more")


def test_what_is_sent_is_signed_for_that_gateway_and_its_configuration(office: Office) -> None:
    running = wire.RunningConfig(generation=7).SerializeToString()
    row = {"gateway": GATEWAY, "session": 1, "connected_ms": 1, "heard_ms": 1, "version": "", "running": running}
    with office.stores.journal.write() as connection:
        connection.execute(insert(presence).values(row))
    asked = office.ask()
    (open_,) = office.dispatch.open({GATEWAY})
    office.clock.now += 20_000
    message = office.dispatch.message(open_)
    assert (message.id, message.ttl_ms, message.expected_generation) == (asked.id, 40_000, 7)
    public = office.key.public_key().public_bytes_raw()
    assert refusal(message, gateway=GATEWAY, config_key=public) is None
    stolen = refusal(message, gateway=OTHER, config_key=public)
    assert stolen is not None
    assert "not signed" in stolen.text
    office.clock.now += 3_600_000
    assert office.dispatch.message(open_).ttl_ms == 0


def test_a_result_is_recorded_once(office: Office) -> None:
    asked = office.ask()
    assert office.dispatch.sent([asked.id]) == {asked.id}
    assert office.row(asked.id).state == "sent"
    office.told(asked.id, holds=-4.5)
    office.told(asked.id, wire.COMMAND_FAILED)
    office.told(asked.id, wire.COMMAND_FAILED, gateway=OTHER)
    office.outcomes.step()
    ended = office.row(asked.id)
    assert (ended.state, ended.text, ended.until_ms) == ("done", "words", None)
    assert office.dispatch.open({GATEWAY}) == []
    assert office.dispatch.sent([asked.id]) == set()
    office.dispatch.answered(GATEWAY, wire.CommandResult(id=asked.id, state=wire.COMMAND_UNSUPPORTED))
    office.outcomes.step()
    assert office.row(asked.id) == ended


def test_a_result_is_found_after_what_gateways_told_was_projected_anew(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "MISSED_EVERY_MS", 0)
    for key in ("a", "b", "c"):
        asked = office.ask(key=key)
        office.dispatch.sent([asked.id])
        office.told(asked.id)
        office.outcomes.step()
        assert office.row(asked.id).state == "done"
        with office.stores.telemetry.write() as connection:
            connection.execute(command_result.delete())
            if office.stores.telemetry.sqlite:  # it counts from 1 again
                continue
            connection.exec_driver_sql("ALTER SEQUENCE command_result_position_seq RESTART")


def test_only_who_is_connected_here_is_looked_for(office: Office) -> None:
    office.ask()
    assert office.dispatch.open({OTHER}) == []


def test_what_no_gateway_saw_in_time_has_expired(office: Office) -> None:
    asked = office.ask()
    office.clock.now += 59_999
    office.outcomes.step()
    assert office.row(asked.id).state == "waiting"
    office.clock.now += 1
    office.outcomes.step()
    assert (office.row(asked.id).state, office.dispatch.open({GATEWAY})) == ("expired", [])


def test_what_a_gateway_may_have_seen_is_unanswered_after_a_day_and_still_takes_its_result(office: Office) -> None:
    asked = office.ask()
    office.dispatch.sent([asked.id])
    office.clock.now += 60_000 + AGAIN_FOR_MS - 1
    office.outcomes.step()
    assert [row.id for row in office.dispatch.open({GATEWAY})] == [asked.id]
    office.clock.now += 1
    office.outcomes.step()
    assert (office.row(asked.id).state, office.dispatch.open({GATEWAY})) == ("unanswered", [])
    office.told(asked.id)
    office.outcomes.step()
    assert office.row(asked.id).state == "done"


def test_a_gateway_without_commands_says_so_on_its_stream(office: Office) -> None:
    asked, other = office.ask(), office.ask(key="other")
    said = {"text": "this gateway does not know the command 'write'"}
    office.dispatch.answered(OTHER, wire.CommandResult(id=asked.id, state=wire.COMMAND_UNSUPPORTED, **said))  # type: ignore[arg-type]
    office.dispatch.answered(GATEWAY, wire.CommandResult(id=asked.id, state=wire.COMMAND_UNSUPPORTED, **said))  # type: ignore[arg-type]
    office.dispatch.answered(GATEWAY, wire.CommandResult(id=other.id, state=wire.COMMAND_DONE))
    assert (office.row(asked.id).state, office.row(asked.id).text) == ("unsupported", said["text"])
    assert office.row(other.id).state == "waiting"


def test_what_was_written_at_the_box_is_kept_too(office: Office) -> None:
    office.told("box-0011223344556677", sensor="cooling", quantity="setpoint", value=3, holds=3, at_box=True)
    office.told("box-8811223344556677", sensor="cooling", quantity="setpoint", value=4, holds=4, at_box=True)
    office.outcomes.step()
    office.outcomes.step()
    rows = office.commands.listed(GATEWAY, limit=10)
    assert [(row.asked_by, row.value, row.state) for row in rows] == [("", "4", "done"), ("", "3", "done")]


def test_the_newest_come_first_page_by_page_and_by_sensor(office: Office) -> None:
    for n in range(5):
        office.clock.now += n % 2
        office.ask(Write(sensor="even" if n % 2 == 0 else "odd", quantity="q", value=n), key=str(n))
    every = office.commands.listed(GATEWAY, limit=10)
    first = office.commands.listed(GATEWAY, limit=2)
    rest = office.commands.listed(GATEWAY, limit=10, before=(first[-1].asked_ms, first[-1].id))
    assert [*first, *rest] == every
    assert len(every) == 5
    assert {row.sensor for row in office.commands.listed(GATEWAY, limit=10, sensor="odd")} == {"odd"}


@pytest.mark.parametrize(
    "result",
    [
        wire.CommandResult(id="x" * 65, state=wire.COMMAND_DONE),
        wire.CommandResult(id="a\0b", state=wire.COMMAND_DONE),
        wire.CommandResult(id="cmd-1"),
    ],
)
def test_a_result_that_cannot_be_kept_is_refused(result: wire.CommandResult) -> None:
    with pytest.raises(ValueError, match="out of range"):
        result_row(GATEWAY, result.SerializeToString(), 1)


def test_what_cannot_be_read_of_a_result_is_left_out() -> None:
    said = wire.CommandResult(id="c", state=wire.COMMAND_UNCERTAIN, result=b"{", text="a\0" + "b" * 3000)
    row = result_row(GATEWAY, said.SerializeToString(), 1)
    assert (row["result"], len(str(row["text"]))) == ("{}", 2000)


def test_retired_gateways_take_no_commands(office: Office) -> None:
    from control_plane.store.tables import gateway

    with office.stores.business.write() as connection:
        connection.execute(update(gateway).where(gateway.c.id == GATEWAY).values(retired_ms=1))
    with pytest.raises(NotFound, match="retired"):
        office.ask()
