"""Who asks, and whether they may."""

from __future__ import annotations

from collections.abc import Callable

from flask import Request

from control_plane.api.binding import Permission, Route
from control_plane.api.problems import Problem
from control_plane.fleet.accounts import Accounts
from control_plane.fleet.rights import Caller, Role

REALM = {
    Permission.PASSWORD: {"WWW-Authenticate": 'Basic realm="comboio", charset="UTF-8"'},
}
BEARER = {"WWW-Authenticate": 'Bearer realm="comboio"'}


def authorise(request: Request, route: Route, accounts: Accounts) -> Caller | None:
    """The caller, None on public routes; raises Problem 401 or 403."""
    if route.permission is Permission.PUBLIC:
        return None
    if route.permission is Permission.PASSWORD:
        given = request.authorization
        if given is None or given.type != "bearer":
            return _by_password(request, accounts)
        return _permitted(_by_token(request, accounts), Role.ADMIN, route)
    return _permitted(_by_token(request, accounts), Role(route.permission.value), route)


def still_allowed(request: Request, route: Route, accounts: Accounts, caller: Caller | None) -> Callable[[], bool]:
    """What a stream asks now and then: whether the same request would be let in, as the same caller."""
    given = request.authorization
    token = given.token if given is not None and given.type == "bearer" else None

    def still() -> bool:
        now = accounts.caller(token) if token else None
        return route.permission is Permission.PUBLIC or (now is not None and now == caller)

    return still


def whole_fleet(caller: Caller) -> None:
    """Raises Problem 403 for who was given a part of the fleet only."""
    if caller.gateways is not None:
        raise Problem(403, "This concerns the whole fleet; this caller was given some groups of it.")


def _permitted(caller: Caller, needed: Role, route: Route) -> Caller:
    why_not = caller.lacks(needed, route.area, route.mode)
    if why_not is not None:
        raise Problem(403, why_not)
    return caller


def _by_password(request: Request, accounts: Accounts) -> Caller:
    given = request.authorization
    caller = None
    if given is not None and given.type == "basic" and given.username and given.password:
        caller = accounts.authenticate(given.username, given.password)
    if caller is None:
        raise Problem(401, "Give a user's name and password (HTTP Basic).", headers=REALM[Permission.PASSWORD])
    return caller


def _by_token(request: Request, accounts: Accounts) -> Caller:
    given = request.authorization
    if given is None or given.type != "bearer" or not given.token:
        raise Problem(401, "Give an API token: Authorization: Bearer …", headers=BEARER)
    caller = accounts.caller(given.token)
    if caller is None:
        raise Problem(401, "The API token is not known, expired or revoked.", headers=BEARER)
    return caller
