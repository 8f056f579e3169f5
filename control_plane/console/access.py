"""comboio login, logout, whoami, users, tokens."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Any

from control_plane.console.client import Client, Unreachable
from control_plane.console.commands import Commands, deleted, edited, path
from control_plane.console.profile import UsageError, forget, keep
from control_plane.console.show import rows, said, sheet

USERS = rows(("name", "role", "groups", "created"))
TOKENS = rows(("id", "name", "user", "role", "groups", "permissions", "expires", "revoked"))
LOGGED_IN = "Logged in at {server} as {user}, {role}, until {expires}."
ROLES = ("integrator", "viewer", "operator", "admin")
EVERYTHING = 100_000


def add(commands: Commands) -> None:
    login = commands.command(
        "login", _log_in, said("Logged in at {server} as {user}, {role}, until {expires}."), "log in"
    )
    login.set_defaults(anonymous=True)
    login.add_argument("--user", default="admin")
    login.add_argument("--password-file", metavar="FILE", help="- reads standard input; without it you are asked")
    login.add_argument("--ttl-days", type=float, default=30.0)
    commands.command("logout", _log_out, said("Logged out."), "revoke the token kept here and forget it")
    commands.command("whoami", lambda client, _: client.get("/me"), sheet, "whose token this is and what it may")
    _add_users(commands)
    _add_tokens(commands)


def _log_in(client: Client, options: Any) -> Any:
    password = _password(options.password_file)
    asked = {"name": f"{options.user}, comboio login", "ttl_days": options.ttl_days}
    made = client.log_in(options.user, password, asked)
    keep(client.profile, made["token"])
    return {"server": client.profile.server, "user": options.user, "role": made["role"], "expires": made["expires"]}


def _password(name: str | None) -> str:
    if name is None:
        return getpass.getpass()
    try:
        text = sys.stdin.readline() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--password-file {name}: {error.strerror}") from None
    return text.rstrip("\n")


def _log_out(client: Client, _options: Any) -> Any:
    """Forgets the token even if the server can't be told."""
    try:
        client.delete("/me")
    except Unreachable as error:
        raise Unreachable(f"{error}\nForgotten here, but not revoked there.") from None
    finally:
        forget()
    return {"revoked": True}


def _add_users(commands: Commands) -> None:
    def listed(client: Client, _options: Any) -> Any:
        return client.listed("/users", limit=EVERYTHING)

    def create(client: Client, options: Any) -> Any:
        password = _password(options.password_file) if options.password_file else None
        body = {"name": options.name, "role": options.role, "groups": options.group, "password": password}
        return client.post("/users", body)

    def change(client: Client, options: Any) -> Any:
        changed: dict[str, Any] = {}
        if options.role is not None:
            changed["role"] = options.role
        if options.group is not None or options.whole_fleet:
            changed["groups"] = options.group
        if options.password_file is not None:
            changed["password"] = _password(options.password_file)
        if not changed:
            raise UsageError("set needs --role, --group, --whole-fleet or --password-file")
        return edited(client, path("users", options.name), changed)

    action = commands.family("users", "people and their roles", run=listed, show=USERS)
    show = action("show", lambda c, o: c.get(path("users", o.name)), sheet, "one user")
    new = action("add", create, _show_made, "a new user; prints the password made up unless you gave one")
    new.add_argument("--role", choices=ROLES, required=True)
    put = action("set", change, sheet, "change role, groups or password")
    put.add_argument("--role", choices=ROLES)
    put.add_argument("--whole-fleet", action="store_true", help="no longer bound to groups")
    drop = action(
        "delete", lambda c, o: deleted(c, path("users", o.name)), said("{deleted} is gone."), "tokens and sessions end"
    )
    for command in (show, new, put, drop):
        command.add_argument("name")
    for command in (new, put):
        command.add_argument("--group", action="append", help="sees these groups only; may be repeated")
        command.add_argument("--password-file", metavar="FILE", help="- reads standard input")


def _show_made(answer: Any) -> None:
    print(answer["password"] if answer["password"] is not None else f"{answer['user']['name']} is a user now.")


def _add_tokens(commands: Commands) -> None:
    def listed(client: Client, _options: Any) -> Any:
        return client.listed("/api-tokens", limit=EVERYTHING)

    def create(client: Client, options: Any) -> Any:
        body = {
            "name": options.name,
            "role": options.role,
            "ttl_days": options.ttl_days,
            "permissions": options.permission,
            "groups": options.group,
        }
        return client.post("/api-tokens", body)

    def revoke(client: Client, options: Any) -> Any:
        client.delete(path("api-tokens", options.id))
        return {"revoked": options.id}

    action = commands.family("tokens", "API tokens", run=listed, show=TOKENS)
    new = action("create", create, said("{token}"), "a token for a program; printed once")
    new.add_argument("name")
    new.add_argument("--role", choices=ROLES)
    new.add_argument("--ttl-days", type=float, default=90.0)
    new.add_argument("--permission", action="append", metavar="AREA:read|write", help="no more than these; repeated")
    new.add_argument("--group", action="append", help="these groups only; may be repeated")
    action("revoke", revoke, said("{revoked} is revoked."), "end a token").add_argument("id")
