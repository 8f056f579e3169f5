"""Configuration of gateways: layers that are edited, and what comes of them per gateway."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import select

from control_plane.api.auth import whole_fleet
from control_plane.api.binding import Permission, Route
from control_plane.api.paging import Page, PageQuery, moment, page
from control_plane.api.problems import FieldProblem, Problem, shown
from control_plane.fleet.layers import Key, Version
from control_plane.fleet.render import Difference, differences
from control_plane.fleet.revisions import Result, Revisions, Saved, StaleEditError, UnfitError
from control_plane.fleet.rights import EVERYTHING, Caller
from control_plane.fleet.status import Facts, State, Status, Statuses, judge, word
from control_plane.store.engine import Stores
from control_plane.store.tables import config_document, config_revision, effective_config, gateway
from protos.comboio.v1 import link_pb2 as wire

HISTORY = 50
MISTAKES_SHOWN = 100


class LayerBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a configuration document. Tables merge over the layers below, `null` deletes."""

    document: dict[str, Any]


class SaveQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    dry_run: bool = False


class LayerItem(msgspec.Struct, frozen=True):
    name: str
    version: int
    etag: str
    document: dict[str, Any]
    saved: datetime | None
    saved_by: str


class Change(msgspec.Struct, frozen=True):
    """One leaf; null: not there."""

    pointer: str
    before: Any
    after: Any


class TargetResult(msgspec.Struct, frozen=True):
    """What a save does to one gateway."""

    gateway: str
    changed: bool
    generation: int
    hash: str
    errors: list[FieldProblem]


class LayerSaved(msgspec.Struct, frozen=True):
    """`dry_run`: nothing was saved, `version` is the one in force."""

    dry_run: bool
    version: int
    etag: str
    targets: list[TargetResult]


class Wanted(msgspec.Struct, frozen=True):
    generation: int
    hash: str
    since: datetime
    why: str
    document: dict[str, Any]


class Running(msgspec.Struct, frozen=True):
    """By the gateway's own word. `document`: null until it was reported."""

    generation: int
    hash: str
    local_management: bool
    phase: str
    document: dict[str, Any] | None


class Statement(msgspec.Struct, frozen=True):
    generation: int
    hash: str
    state: State
    reason: str
    pointer: str
    text: str
    received: datetime


class GatewayConfiguration(msgspec.Struct, frozen=True):
    """`diff`: leaf by leaf from what runs to what is wanted. `etag` is that of the gateway's own layer."""

    gateway: str
    state: State
    sentence: str
    offline: bool
    desired: Wanted | None
    running: Running | None
    provenance: dict[str, str]
    diff: list[Change]
    history: list[Statement]
    etag: str


class StatusItem(msgspec.Struct, frozen=True):
    gateway: str
    state: State
    sentence: str
    offline: bool
    generation: int
    running_generation: int
    local_management: bool | None


class ConfigurationRoutes:
    def __init__(self, *, revisions: Revisions, statuses: Statuses, stores: Stores) -> None:
        self._revisions = revisions
        self._statuses = statuses
        self._stores = stores

    def routes(self) -> tuple[Route, ...]:
        """Reading is a viewer's, changing an operator's."""
        return (
            self._read("/config/status", self.status, "How far each gateway is from what is wanted"),
            self._read("/config/fleet", self.fleet, "The fleet's template"),
            self._save("/config/fleet", self.save_fleet, "Change the fleet's template"),
            self._read("/config/groups/{slug}", self.group_layer, "A group's template", 404),
            self._save("/config/groups/{slug}", self.save_group_layer, "Change a group's template"),
            self._read("/config/gateways/{gateway_id}", self.gateway_layer, "A gateway's own layer", 404),
            self._save("/config/gateways/{gateway_id}", self.save_gateway_layer, "Change a gateway's own layer"),
            self._read("/gateways/{gateway_id}/config", self.configuration, "Wanted, running, and the way there", 404),
            self._save("/gateways/{gateway_id}/config", self.save_gateway_layer, "Change a gateway's own layer"),
            Route(
                method="POST",
                path="/gateways/{gateway_id}/config/adopt",
                view=self.adopt,
                permission=Permission.OPERATOR,
                summary="Make what the gateway runs its own layer",
                problems=(404, 409, 422),
            ),
        )

    @staticmethod
    def _read(path: str, view: Any, summary: str, *problems: int) -> Route:
        return Route(
            method="GET", path=path, view=view, permission=Permission.VIEWER, summary=summary, problems=problems
        )

    @staticmethod
    def _save(path: str, view: Any, summary: str) -> Route:
        return Route(
            method="PUT",
            path=path,
            view=view,
            permission=Permission.OPERATOR,
            summary=summary,
            problems=(404, 412, 422, 428),
        )

    # --- layers --------------------------------------------------------------------------------------

    def fleet(self) -> LayerItem:
        """Everybody's: it says nothing of particular gateways."""
        return self._layer(Key("fleet", ""))

    def group_layer(self, slug: str, caller: Caller) -> LayerItem:
        _given(caller, Key("group", slug))
        return self._layer(Key("group", slug))

    def gateway_layer(self, gateway_id: str, caller: Caller) -> LayerItem:
        _given(caller, Key("gateway", gateway_id))
        return self._layer(Key("gateway", gateway_id))

    def save_fleet(self, query: SaveQuery, body: LayerBody, caller: Caller, if_match: int) -> LayerSaved:
        return self._store(Key("fleet", ""), query, body, caller, if_match)

    def save_group_layer(
        self, slug: str, query: SaveQuery, body: LayerBody, caller: Caller, if_match: int
    ) -> LayerSaved:
        return self._store(Key("group", slug), query, body, caller, if_match)

    def save_gateway_layer(
        self, gateway_id: str, query: SaveQuery, body: LayerBody, caller: Caller, if_match: int
    ) -> LayerSaved:
        return self._store(Key("gateway", gateway_id), query, body, caller, if_match)

    def adopt(self, gateway_id: str, caller: Caller) -> LayerSaved:
        _given(caller, Key("gateway", gateway_id))
        try:
            return _saved(self._revisions.adopt(gateway_id, by=caller.name), dry_run=False)
        except UnfitError as error:
            raise unfit(error) from None

    def _layer(self, key: Key) -> LayerItem:
        version = self._revisions.layer(key)
        return LayerItem(
            name=key.name,
            version=version.version,
            etag=_etag(version.version),
            document=dict(version.body),
            saved=moment(version.saved_ms or None),
            saved_by=version.saved_by,
        )

    def _store(self, key: Key, query: SaveQuery, body: LayerBody, caller: Caller, if_match: int) -> LayerSaved:
        _given(caller, key)
        try:
            saved = self._revisions.save(key, body.document, expected=if_match, by=caller.name, dry_run=query.dry_run)
        except StaleEditError as error:
            raise _stale(error) from None
        except UnfitError as error:
            raise unfit(error) from None
        return _saved(saved, dry_run=query.dry_run)

    # --- gateways ------------------------------------------------------------------------------------

    def configuration(self, gateway_id: str, caller: Caller = EVERYTHING) -> GatewayConfiguration:
        _given(caller, Key("gateway", gateway_id))
        layer = self._revisions.layer(Key("gateway", gateway_id))
        facts = self._statuses.facts([gateway_id])[gateway_id]
        status = judge(facts)
        desired, provenance = self._wanted(facts)
        running = self._running(facts)
        before = running.document if running is not None and running.document is not None else {}
        return GatewayConfiguration(
            gateway=gateway_id,
            state=status.state,
            sentence=status.sentence,
            offline=status.offline,
            desired=desired,
            running=running,
            provenance=provenance,
            diff=_changes(differences(before, desired.document)) if desired is not None else [],
            history=_history(facts),
            etag=_etag(layer.version),
        )

    def status(self, query: PageQuery, caller: Caller) -> Page[StatusItem]:
        (after,) = query.after(str) or ("",)
        with self._stores.business.read() as connection:
            known = select(gateway.c.id).where(
                gateway.c.id > after, gateway.c.retired_ms.is_(None), *caller.within(gateway.c.id)
            )
            rows = connection.execute(known.order_by(gateway.c.id).limit(query.limit + 1)).all()
        facts = self._statuses.facts([row.id for row in rows])
        return page(rows, limit=query.limit, item=lambda row: _item(facts[row.id]), key=lambda row: (row.id,))

    def _wanted(self, facts: Facts) -> tuple[Wanted | None, dict[str, str]]:
        with self._stores.business.read() as connection:
            query = (
                select(config_revision, config_document.c.body)
                .join(config_document, config_document.c.hash == config_revision.c.hash)
                .where(
                    config_revision.c.gateway == facts.gateway,
                    config_revision.c.generation == facts.generation,
                )
            )
            row = connection.execute(query).one_or_none()
        if row is None:
            return None, {}
        document = msgspec.json.decode(row.body)
        wanted = Wanted(row.generation, row.hash, moment(row.since_ms), row.why, document)
        return wanted, msgspec.json.decode(row.provenance)

    def _running(self, facts: Facts) -> Running | None:
        said = facts.running
        if said is None:
            return None
        with self._stores.journal.read() as connection:
            query = select(effective_config).where(effective_config.c.gateway == facts.gateway)
            row = connection.execute(query).one_or_none()
        own = said.local_hash if said.local_management or not said.pushed_hash else said.pushed_hash
        matches = row is not None and row.body and bytes(row.pushed_hash) == said.pushed_hash
        return Running(
            generation=said.generation,
            hash=own.hex(),
            local_management=said.local_management,
            phase=wire.ConfigPhase.Name(said.phase).removeprefix("CONFIG_"),
            document=msgspec.json.decode(row.body) if row is not None and matches else None,
        )


def _given(caller: Caller, key: Key) -> None:
    """What a caller was not given is not there; the fleet's template it may read, not change."""
    if key.kind == "fleet":
        whole_fleet(caller)
    elif key.kind == "gateway" and not caller.sees(key.target):
        raise Problem(404, f"There is no gateway {key.target}, or it was retired.")
    elif key.kind == "group" and caller.groups is not None and key.target not in caller.groups:
        raise Problem(404, f"There is no group {key.target}.")


def _etag(version: int) -> str:
    return f'"{version}"'


def _saved(saved: Saved, *, dry_run: bool) -> LayerSaved:
    targets = [target_result(result) for result in saved.results]
    return LayerSaved(dry_run=dry_run, version=saved.version, etag=_etag(saved.version), targets=targets)


def target_result(result: Result) -> TargetResult:
    errors = [FieldProblem(mistake.pointer, mistake.message) for mistake in result.mistakes]
    wanted = result.wanted
    return TargetResult(result.gateway, result.changed, wanted.generation, wanted.hash, errors)


def unfit(error: UnfitError) -> Problem:
    shown = [
        FieldProblem(mistake.pointer, f"{result.gateway}: {mistake.message}")
        for result in error.results
        for mistake in result.mistakes
    ]
    return Problem(422, f"{error} Nothing was saved.", errors=shown[:MISTAKES_SHOWN])


def _stale(error: StaleEditError) -> Problem:
    now: Version = error.now
    changed = [FieldProblem(c.pointer, f"is {shown(c.after)} now, was {shown(c.before)}") for c in error.changed]
    detail = f"{error} Look at what changed, and save on top of it with If-Match: {_etag(now.version)}."
    return Problem(
        412,
        detail,
        errors=changed[:MISTAKES_SHOWN],
        headers={"ETag": _etag(now.version)},
        current={"document": dict(now.body)},
    )


def _changes(found: Sequence[Difference]) -> list[Change]:
    return [Change(one.pointer, one.before, one.after) for one in found]


def _history(facts: Facts) -> list[Statement]:
    """Newest first."""
    return [
        Statement(
            generation=said.generation,
            hash=said.hash,
            state=word(said, facts.generation),
            reason=_reason(said.reason),
            pointer=said.pointer,
            text=said.text,
            received=moment(said.received_ms),
        )
        for said in list(facts.said)[: -HISTORY - 1 : -1]
    ]


def _reason(number: int) -> str:
    if number == wire.CONFIG_REASON_UNSPECIFIED:
        return ""
    try:
        return wire.ConfigReason.Name(wire.ConfigReason.ValueType(number)).removeprefix("CONFIG_REASON_")
    except ValueError:
        return str(number)


def _item(facts: Facts) -> StatusItem:
    status: Status = judge(facts)
    running = facts.running
    return StatusItem(
        gateway=facts.gateway,
        state=status.state,
        sentence=status.sentence,
        offline=status.offline,
        generation=facts.generation,
        running_generation=running.generation if running is not None else 0,
        local_management=running.local_management if running is not None else None,
    )
