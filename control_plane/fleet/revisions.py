"""What is wanted of each gateway: layers rendered to whole documents, checked before anything is saved.

Invariants
* a save takes effect for every gateway it concerns, or for none;
* a gateway's generation only rises, above every one it was ever seen to run; the same content is no new generation;
* a save is compare-and-set twice: on the layer's version as its author saw it (else StaleEditError, with what changed)
  and on what it was rendered from (else it is rendered again).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, select, update

from control_plane.clock import Clock
from control_plane.errors import Conflict, NotFound, Rejected, Retryable
from control_plane.fleet import layers
from control_plane.fleet.checks import Mistake, check
from control_plane.fleet.layers import Group, Key, Snapshot, Version, Wanted, named
from control_plane.fleet.render import Difference, Rendered, by_id, differences, render
from control_plane.store.engine import Store, Stores
from control_plane.store.tables import (
    config_desired,
    config_document,
    config_revision,
    effective_config,
    gateway,
    presence,
)
from control_plane.store.upsert import keep_first, upsert
from firmware_configs.loader import Profiles
from protos.comboio.v1 import link_pb2 as wire
from protos.config import digest

ATTEMPTS = 5
DEEPEST = 16
FURTHEST = 1 << 53
"""A generation beyond is nonsense, not news."""


class StaleEditError(Conflict):
    """The layer was saved by somebody else since its author read it."""

    def __init__(self, now: Version, changed: Sequence[Difference]) -> None:
        super().__init__(f"It is at version {now.version} now, saved by {now.saved_by or 'nobody'}.")
        self.now = now
        self.changed = tuple(changed)


class UnfitError(Rejected):
    """Some gateways' documents would not be right; nothing was saved."""

    def __init__(self, results: Sequence[Result]) -> None:
        super().__init__(f"{len(results)} of the gateways concerned would get a configuration that is not right.")
        self.results = tuple(results)


class Result(NamedTuple):
    """What a save does, or would do, to one gateway."""

    gateway: str
    before: Wanted | None
    wanted: Wanted
    mistakes: tuple[Mistake, ...]
    body: bytes
    rendered: Rendered

    @property
    def changed(self) -> bool:
        return self.before is None or self.before.hash != self.wanted.hash


class Saved(NamedTuple):
    version: int
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Revisions:
    """Synchronous and thread-safe; used by the REST API and the worker."""

    stores: Stores
    clock: Clock
    profiles: Profiles

    @property
    def _store(self) -> Store:
        return self.stores.business

    # --- layers --------------------------------------------------------------------------------------

    def layer(self, key: Key) -> Version:
        """Raises NotFound when there is no such group or gateway."""
        with self._store.read() as connection:
            self._targets(connection, key)
            return layers.current(connection, key)

    def save(self, key: Key, body: Mapping[str, Any], *, expected: int, by: str, dry_run: bool = False) -> Saved:
        """Raises StaleEditError, UnfitError (not for a dry run), NotFound, Rejected; nothing has changed then."""
        _check_depth(body)

        def edit(connection: Connection, before: Snapshot) -> tuple[Snapshot, Write]:
            now = layers.current(connection, key)
            if now.version != expected:
                seen = layers.at(connection, key, expected) or layers.NEVER
                raise StaleEditError(now, differences(seen.body, now.body))
            version = Version(expected + 1, body, self.clock.now_ms(), by)
            after = replace(before, layers={**before.layers, key: version})
            return after, lambda writing: layers.write_layer(writing, key, version)

        def targets(connection: Connection) -> list[str]:
            return self._targets(connection, key)

        results = self._change(targets, edit, why=f"{key.name} saved by {by}", dry_run=dry_run)
        return Saved(expected if dry_run else expected + 1, results)

    def adopt(self, gateway_id: str, *, by: str) -> Saved:
        """Make what the gateway runs by its own word the gateway's layer. Raises as `save`."""
        with self.stores.journal.read() as connection:
            query = select(effective_config.c.body).where(effective_config.c.gateway == gateway_id)
            body = connection.execute(query).scalar_one_or_none()
        if not body:
            raise NotFound(f"{gateway_id} has not reported its configuration yet.")
        document = msgspec.json.decode(body)
        kept = {name: part for name, part in document.items() if name not in {"management", "config_version"}}
        key = Key("gateway", gateway_id)
        return self.save(key, kept, expected=self.layer(key).version, by=by)

    # --- groups --------------------------------------------------------------------------------------

    def groups(self) -> list[Group]:
        with self._store.read() as connection:
            return list(layers.groups(connection).values())

    def save_group(self, group: Group, *, dry_run: bool = False, by: str = "", guard: Guard | None = None) -> Saved:
        """Make or change a group; its members' documents follow. Raises UnfitError, NotFound, what `guard` raises.

        `guard` is called with the group as it was (None: there was none) in the transaction that changes it.
        """

        def targets(connection: Connection) -> list[str]:
            known = set(layers.registered(connection))
            before = layers.groups(connection).get(group.slug)
            members = before.members if before else frozenset[str]()
            if unknown := sorted(group.members - known - members):  # retired members may stay
                raise NotFound(f"There is no gateway {unknown[0]}.")
            return sorted((group.members | members) & known)

        def edit(_: Connection, before: Snapshot) -> tuple[Snapshot, Write]:
            return replace(before, groups={**before.groups, group.slug: group}), self._group_writer(group, by, guard)

        results = self._change(targets, edit, why=f"group/{group.slug} saved by {by}", dry_run=dry_run)
        return Saved(0, results)

    def delete_group(self, slug: str, *, by: str, guard: Guard) -> Saved:
        """Its template goes with it. Raises NotFound, UnfitError, what `guard` raises."""

        def targets(connection: Connection) -> list[str]:
            return self._targets(connection, Key("group", slug))

        def edit(_: Connection, before: Snapshot) -> tuple[Snapshot, Write]:
            rest = {name: group for name, group in before.groups.items() if name != slug}
            return replace(before, groups=rest), write

        def write(connection: Connection) -> None:
            guard(connection, layers.groups(connection).get(slug))
            key, now_ms = Key("group", slug), self.clock.now_ms()
            template = layers.current(connection, key)
            if template.body:
                layers.write_layer(connection, key, Version(template.version + 1, {}, now_ms, by))
            layers.forget_group(connection, slug, by=by, now_ms=now_ms)

        return Saved(0, self._change(targets, edit, why=f"group/{slug} deleted by {by}", dry_run=False))

    def regroup(self, gateway_id: str, slugs: frozenset[str], *, by: str, also: Write) -> Saved:
        """Make a gateway a member of exactly these groups; `also` is written first in the same transaction.

        Raises NotFound (a group), UnfitError, what `also` raises.
        """

        def targets(connection: Connection) -> list[str]:
            if unknown := sorted(slugs - layers.groups(connection).keys()):
                raise NotFound(f"There is no group {unknown[0]}.")
            return [gateway_id] if gateway_id in layers.registered(connection) else []

        def edit(_: Connection, before: Snapshot) -> tuple[Snapshot, Write]:
            def moved(group: Group) -> Group:
                mine = group.members - {gateway_id}
                return group._replace(members=mine | {gateway_id} if group.slug in slugs else mine)

            after = {slug: moved(group) for slug, group in before.groups.items()}
            changed = [group for slug, group in after.items() if group != before.groups[slug]]

            def write(connection: Connection) -> None:
                also(connection)
                for group in changed:
                    layers.write_group(connection, group, by=by, now_ms=self.clock.now_ms(), count=False)

            return replace(before, groups=after), write

        return Saved(0, self._change(targets, edit, why=f"groups of {gateway_id} changed by {by}", dry_run=False))

    def _group_writer(self, group: Group, by: str, guard: Guard | None) -> Write:
        def write(connection: Connection) -> None:
            if guard is not None:
                guard(connection, layers.groups(connection).get(group.slug))
            layers.write_group(connection, group, by=by, now_ms=self.clock.now_ms())

        return write

    # --- the worker's part ---------------------------------------------------------------------------

    def render_newcomers(self) -> int:
        """Give those their first document who have none although there are layers for them; returns how many."""

        def targets(connection: Connection) -> list[str]:
            has = select(config_desired.c.gateway)
            query = select(gateway.c.id).where(gateway.c.retired_ms.is_(None), gateway.c.id.not_in(has))
            return list(connection.execute(query.order_by(gateway.c.id).limit(layers.CHUNK)).scalars())

        def edit(_: Connection, before: Snapshot) -> tuple[Snapshot, Write]:
            return before, lambda _: None

        with self._store.read() as connection:
            if not targets(connection):
                return 0
        return len(self._change(targets, edit, why="joined the fleet", dry_run=False))

    def jump(self, gateway_id: str, beyond: int) -> int:
        """Raise the generation wanted of a gateway above one it was seen to run; returns the new one, 0 if none."""
        for _ in range(ATTEMPTS):
            with self._store.read() as connection:
                before = layers.snapshot(connection, [gateway_id])
                wanted = before.wanted.get(gateway_id)
                if wanted is None or wanted.generation >= beyond:
                    return 0
                query = select(config_document.c.body).where(config_document.c.hash == wanted.hash)
                body = bytes(connection.execute(query).scalar_one())
            result = self._render(before, gateway_id, {}, {})
            again = result._replace(wanted=Wanted(beyond + 1, wanted.hash), body=body)
            if self._commit(before, [again], lambda _: None, why="the gateway ran a newer generation", force=True):
                return beyond + 1
        raise Retryable("The configuration is being changed by others; try again.", after_s=1)

    # --- rendering and committing --------------------------------------------------------------------

    def _change(
        self,
        targets: Callable[[Connection], list[str]],
        edit: Callable[[Connection, Snapshot], tuple[Snapshot, Write]],
        *,
        why: str,
        dry_run: bool,
    ) -> tuple[Result, ...]:
        running = self._running_generations()
        for _ in range(ATTEMPTS):
            with self._store.read() as connection:
                before = layers.snapshot(connection, targets(connection))
                after, write = edit(connection, before)
            cache: Cache = {}
            results = [self._render(after, one, running, cache) for one in after.gateways if after.stack(one)]
            wrong = [result for result in results if result.mistakes]
            if dry_run:
                return tuple(results)
            if wrong:
                raise UnfitError(wrong)
            if self._commit(before, results, write, why=why):
                return tuple(results)
        raise Retryable("The configuration is being changed by others; try again.", after_s=1)

    def _render(self, after: Snapshot, gateway_id: str, running: Mapping[str, int], cache: Cache) -> Result:
        """Gateways with the same layers share the work."""
        stack = after.stack(gateway_id)
        key = tuple((layer, version.version) for layer, version in stack)
        if key not in cache:
            rendered = render(named(stack))
            body, mistakes = check(rendered.document, self.profiles)
            placed = tuple(Mistake(by_id(m.pointer, rendered.document), m.message) for m in mistakes)
            cache[key] = (rendered, body, digest(body).hex(), placed)
        rendered, body, name, mistakes = cache[key]
        before = after.wanted.get(gateway_id)
        generation = before.generation if before else 0
        if before is None or before.hash != name:
            generation = max(generation, running.get(gateway_id, 0)) + 1
        return Result(gateway_id, before, Wanted(generation, name), mistakes, body, rendered)

    def _commit(
        self, before: Snapshot, results: Sequence[Result], write: Write, *, why: str, force: bool = False
    ) -> bool:
        """False if something was saved since `before`."""
        now_ms = self.clock.now_ms()
        with self._store.write() as connection:
            change = layers.count_change(connection, before.change)
            if change is None:
                return False
            write(connection)
            fresh = [result for result in results if result.changed or force]
            for name, body in {result.wanted.hash: result.body for result in fresh}.items():
                keep_first(connection, config_document, {"hash": name, "body": body, "created_ms": now_ms})
            upsert(connection, config_desired, [_desired_row(result, change) for result in fresh])
            if fresh:
                connection.execute(config_revision.insert(), [_revision_row(r, now_ms, why) for r in fresh])
            self._explain(connection, [result for result in results if not (result.changed or force)])
        return True

    @staticmethod
    def _explain(connection: Connection, same: Sequence[Result]) -> None:
        """The content stays, but another layer may be its reason now."""
        for result in same:
            connection.execute(
                update(config_revision)
                .where(
                    config_revision.c.gateway == result.gateway,
                    config_revision.c.generation == result.wanted.generation,
                )
                .values(provenance=_json(result.rendered.provenance))
            )

    def _running_generations(self) -> dict[str, int]:
        """The generation each gateway said it runs; absent when it never ran one."""
        with self.stores.journal.read() as connection:
            rows = connection.execute(
                select(presence.c.gateway, presence.c.running).where(presence.c.running.is_not(None))
            ).all()
        said = {row.gateway: wire.RunningConfig.FromString(row.running).generation for row in rows}
        return {name: generation for name, generation in said.items() if 0 < generation < FURTHEST}

    @staticmethod
    def _targets(connection: Connection, key: Key) -> list[str]:
        known = layers.registered(connection)
        if key.kind == "fleet":
            return known
        if key.kind == "gateway":
            if key.target not in known:
                raise NotFound(f"There is no gateway {key.target}, or it was retired.")
            return [key.target]
        group = layers.groups(connection).get(key.target)
        if group is None:
            raise NotFound(f"There is no group {key.target}.")
        return sorted(group.members & set(known))


Write = Callable[[Connection], None]
Guard = Callable[[Connection, Group | None], None]
Cache = dict[tuple[tuple[Key, int], ...], tuple[Rendered, bytes, str, tuple[Mistake, ...]]]


def _desired_row(result: Result, change: int) -> dict[str, object]:
    wanted = result.wanted
    return {"gateway": result.gateway, "generation": wanted.generation, "hash": wanted.hash, "change": change}


def _revision_row(result: Result, now_ms: int, why: str) -> dict[str, object]:
    return {
        "gateway": result.gateway,
        "generation": result.wanted.generation,
        "hash": result.wanted.hash,
        "provenance": _json(result.rendered.provenance),
        "since_ms": now_ms,
        "why": why,
    }


def _json(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _check_depth(value: Any, left: int = DEEPEST) -> None:
    if left == 0:
        raise Rejected(f"The document is nested deeper than {DEEPEST} levels.")
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for one in inner:
        _check_depth(one, left - 1)
