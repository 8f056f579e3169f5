"""What is wanted reaches connected gateways over their streams, and what they say of it is kept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from control_plane.clock import SystemClock
from control_plane.fleet.layers import Key
from control_plane.fleet.revisions import Revisions
from control_plane.store.tables import config_offer, config_status, effective_config, presence
from firmware_configs.loader import Profiles
from protos.comboio.v1 import link_pb2 as wire
from protos.config import digest
from protos.offers import signed_bytes
from tests.control_plane.fleet.fleets import DOOR, PROBE, register
from tests.control_plane.ingest.conftest import PROBATION_S, Box, Plane, hello
from tests.control_plane.sealing import GATEWAY, OTHER, batch, declare

FLEET = Key("fleet", "")
OLD = b"o" * 32


@pytest.fixture
def revisions(plane: Plane) -> Revisions:
    register(plane.stores, GATEWAY, OTHER)
    return Revisions(stores=plane.stores, clock=SystemClock(), profiles=Profiles())


def save(revisions: Revisions, *sensors: dict[str, str], expected: int = 0) -> bytes:
    saved = revisions.save(FLEET, {"sensor": list(sensors)}, expected=expected, by="ana")
    return saved.results[0].body


def runs(**running: Any) -> wire.Hello:
    said = hello()
    said.running.CopyFrom(wire.RunningConfig(**running))
    return said


async def offered(box: Box) -> wire.ConfigOffer:
    while (answer := await box.hear()).WhichOneof("msg") != "config_offer":
        assert answer.WhichOneof("msg") in {"ack", "welcome"}
    return answer.config_offer


async def nothing_offered(box: Box, *, seq: int = 1) -> None:
    """An ack comes, several looks later, and no offer before it."""
    await asyncio.sleep(0.3)
    await box.send(batch(seq, 10))
    answer = await box.hear()
    assert answer.WhichOneof("msg") == "ack", answer


async def test_at_hello_what_differs_is_offered_signed_by_the_pinned_key(plane: Plane, revisions: Revisions) -> None:
    body = save(revisions, PROBE)
    async with plane.box() as box:
        await box.greet(runs(pushed_hash=OLD))
        offer = await offered(box)
        await box.send(batch(1, 10), said=declare())
        await box.acked(1)
    assert (offer.generation, offer.hash, offer.body, offer.probation_s) == (1, digest(body), body, PROBATION_S)
    message = signed_bytes(
        gateway=GATEWAY, generation=1, digest=offer.hash, apply_when=offer.apply_when, probation_s=PROBATION_S
    )
    Ed25519PublicKey.from_public_bytes(plane.authority.config_public_key).verify(offer.signature, message)
    (row,) = plane.rows(config_offer)
    assert (row.gateway, row.generation, bytes(row.hash)) == (GATEWAY, 1, digest(body))


async def test_a_save_reaches_who_is_connected_within_a_look(plane: Plane, revisions: Revisions) -> None:
    async with plane.box() as box:
        await box.greet(runs(pushed_hash=OLD))
        first = await asyncio.to_thread(save, revisions, PROBE)
        assert (await offered(box)).body == first
        second = await asyncio.to_thread(lambda: save(revisions, PROBE, DOOR, expected=1))
        offer = await offered(box)
        assert (offer.generation, offer.body) == (2, second)


async def test_an_offer_is_made_once_per_connection_and_again_at_the_next(plane: Plane, revisions: Revisions) -> None:
    save(revisions, PROBE)
    for _ in range(2):
        async with plane.ready_box(runs(pushed_hash=OLD)) as box:
            await offered(box)
            await nothing_offered(box)


async def test_who_runs_it_or_is_configured_by_hand_is_left_alone(plane: Plane, revisions: Revisions) -> None:
    body = save(revisions, PROBE)
    async with plane.ready_box(runs(pushed_hash=digest(body), generation=1)) as box:
        await nothing_offered(box)
    async with plane.ready_box(runs(local_management=True)) as box:
        await nothing_offered(box, seq=2)


async def test_statuses_and_what_runs_are_kept(plane: Plane, revisions: Revisions) -> None:
    body = save(revisions, PROBE)
    running = wire.RunningConfig(generation=1, pushed_hash=digest(body), phase=wire.CONFIG_PROBATION)
    async with plane.ready_box(runs(pushed_hash=OLD)) as box:
        await offered(box)
        said = wire.ConfigStatus(
            generation=1, hash=digest(body), phase=wire.CONFIG_PROBATION, running=running, text="so far so good"
        )
        await box.say(config_status=said)
        await box.say(config_status=said)
        await box.say(effective_config=wire.EffectiveConfig(pushed_hash=digest(body), body=body))
        await box.send(batch(1, 10))
        await box.acked(1)
        (status,) = plane.rows(config_status)
        assert (status.phase, status.text) == (wire.CONFIG_PROBATION, "so far so good")
        (effective,) = plane.rows(effective_config)
        assert bytes(effective.body) == body
        (here,) = plane.rows(presence)
        assert wire.RunningConfig.FromString(here.running) == running


async def test_undone_content_is_not_offered_again_and_what_may_be_retried_is(
    plane: Plane, revisions: Revisions
) -> None:
    body = save(revisions, PROBE)
    undone: dict[str, Any] = {"generation": 1, "hash": digest(body), "phase": wire.CONFIG_ROLLED_BACK}
    async with plane.ready_box(runs(pushed_hash=OLD)) as box:
        await offered(box)
        later = SystemClock().now_ms() + 400
        moment = wire.ConfigStatus(reason=wire.CONFIG_REASON_NO_RECONNECT, retry_at_ms=later, **undone)
        await box.say(config_status=moment)
        await offered(box)
        assert SystemClock().now_ms() >= later
        content = wire.ConfigStatus(reason=wire.CONFIG_REASON_SOURCE_SILENT, **undone)
        await box.say(config_status=content)
        await nothing_offered(box)
    async with plane.ready_box(runs(pushed_hash=OLD, generation=1)) as box:
        await nothing_offered(box, seq=2)


@pytest.mark.parametrize(
    "message",
    [
        {"config_status": wire.ConfigStatus(generation=1 << 63, hash=OLD)},
        {"config_status": wire.ConfigStatus(generation=1, hash=b"short")},
        {"config_status": wire.ConfigStatus(generation=1, hash=OLD, reason=1 << 31)},
        {"effective_config": wire.EffectiveConfig(body=b"x" * (1024 * 1024 + 1))},
        {"effective_config": wire.EffectiveConfig(local_hash=b"short")},
    ],
)
async def test_what_no_column_can_hold_ends_only_its_own_stream(plane: Plane, message: dict[str, Any]) -> None:
    async with plane.ready_box() as good, plane.box(OTHER) as bad:
        await bad.greet()
        await bad.say(**message)
        assert "out of range" in (await bad.goodbye()).text
        await good.send(batch(1, 10))
        await good.acked(1)


async def test_a_store_that_cannot_be_read_is_asked_again(plane: Plane, revisions: Revisions) -> None:
    body = save(revisions, PROBE)
    with plane.stores.business.write() as connection:
        connection.exec_driver_sql("ALTER TABLE config_desired RENAME TO gone")
    async with plane.ready_box(runs(pushed_hash=OLD)) as box:
        await nothing_offered(box)
        with plane.stores.business.write() as connection:
            connection.exec_driver_sql("ALTER TABLE gone RENAME TO config_desired")
        assert (await offered(box)).body == body
