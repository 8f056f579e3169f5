"""Who asks, and whether they may."""

from __future__ import annotations

from flask import Request

from control_plane.api.binding import Permission
from control_plane.api.problems import Problem
from control_plane.fleet.accounts import Accounts, Caller, Role

REALM = {
    Permission.PASSWORD: {"WWW-Authenticate": 'Basic realm="comboio", charset="UTF-8"'},
}
BEARER = {"WWW-Authenticate": 'Bearer realm="comboio"'}


def authorise(request: Request, permission: Permission, accounts: Accounts) -> Caller | None:
    """The caller, None on public routes; raises Problem 401 or 403."""
    if permission is Permission.PUBLIC:
        return None
    if permission is Permission.PASSWORD:
        return _by_password(request, accounts)
    caller = _by_token(request, accounts)
    needed = Role(permission.value)
    if caller.role < needed:
        raise Problem(403, f"This needs the role {needed.word}; the token has {caller.role.word}.")
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
