from __future__ import annotations

import pytest

from control_plane.fleet.accounts import Accounts, Role
from control_plane.fleet.browser_sessions import BrowserSessions
from control_plane.fleet.users import UserFields, Users
from control_plane.store.engine import Stores
from tests.control_plane.conftest import TurnedClock


def test_the_first_start_makes_one_administrator(accounts: Accounts) -> None:
    password = accounts.ensure_admin()
    assert password is not None
    assert accounts.ensure_admin() is None
    known = accounts.authenticate("admin", password)
    assert known is not None
    assert known.role is Role.ADMIN


def test_wrong_names_and_passwords_are_nobody(accounts: Accounts) -> None:
    password = accounts.ensure_admin() or ""
    assert accounts.authenticate("admin", password + "x") is None
    assert accounts.authenticate("root", password) is None


def test_a_reset_password_replaces_the_old_one(accounts: Accounts) -> None:
    old = accounts.ensure_admin() or ""
    new = accounts.reset_password("admin")
    assert accounts.authenticate("admin", old) is None
    assert accounts.authenticate("admin", new) is not None


def test_a_token_ends_with_its_days_or_its_revocation(accounts: Accounts, clock: TurnedClock) -> None:
    short = accounts.create_token(name="a", role=Role.VIEWER, ttl_days=1)
    lasting = accounts.create_token(name="b", role=Role.OPERATOR)
    clock.forward(days=1)
    assert accounts.caller(short.token) is None
    known = accounts.caller(lasting.token)
    assert known is not None
    assert known.role is Role.OPERATOR
    accounts.revoke_token(lasting.id)
    assert accounts.caller(lasting.token) is None
    assert accounts.caller("ct1.never-made") is None


def test_a_session_is_bound_to_its_users_groups_as_they_are_now(
    stores: Stores, accounts: Accounts, clock: TurnedClock
) -> None:
    users = Users(store=stores.business, accounts=accounts, clock=clock)
    sessions = BrowserSessions(store=stores.business, clock=clock)
    users.create("ana", UserFields(Role.ADMIN, None), password=None, by="")
    users.create("eva", UserFields(Role.ADMIN, frozenset()), password=None, by="")
    callers = {name: sessions.caller(sessions.begin(name).secret) for name in ("ana", "eva")}
    seen = {name: caller.sees("gw-x") for name, caller in callers.items() if caller is not None}
    assert seen == {"ana": True, "eva": False}


@pytest.mark.parametrize(
    ("given", "users", "left"),
    [
        (Role.ADMIN, Role.VIEWER, Role.VIEWER),
        (Role.VIEWER, Role.ADMIN, Role.VIEWER),
        (Role.INTEGRATOR, Role.OPERATOR, Role.INTEGRATOR),
        (Role.OPERATOR, Role.INTEGRATOR, Role.INTEGRATOR),
        (Role.INTEGRATOR, Role.VIEWER, None),
    ],
)
def test_a_token_shrinks_with_its_user(
    stores: Stores, accounts: Accounts, clock: TurnedClock, given: Role, users: Role, left: Role | None
) -> None:
    people = Users(store=stores.business, accounts=accounts, clock=clock)
    people.create("ana", UserFields(users, None), password=None, by="")
    caller = accounts.caller(accounts.create_token(name="t", role=given, owner="ana").token)
    assert (caller.role if caller is not None else None) == left
