"""`neartime admin instance|user|token|prune ...`: on the store itself, so that it works without a server too. And
`secret|migrate|nats-config`, which a server of its own needs before it starts, and `gateway`.

A user is a name within an instance that tokens carry. A token is shown when it is made, and never again.
A token that was ended is refused by a running server within three seconds.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields, replace
from datetime import datetime, timedelta

from neartime_server import provision
from neartime_server.bus import Keys
from neartime_server.errors import AdminError
from neartime_server.pruning import IDLE, prune
from neartime_server.settings import Settings
from neartime_server.store import Store, instances, tokens
from neartime_server.store.engine import utc, utc_now
from neartime_server.store.instances import NO_LIMIT, Instance, Limits
from neartime_server.store.tokens import Role


class Admin:
    """What an operator can do to instances and tokens."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = Keys.load(settings.secret_path, create=True)
        self._store = Store(settings.database_url)
        self._store.migrate()

    def close(self) -> None:
        self._store.close()

    def create_instance(self, name: str, weight: float = 1.0) -> str:
        """Returns its id."""
        return self._store.transact(lambda connection: instances.create(connection, name, weight))

    def weigh_instance(self, name: str, weight: float) -> None:
        """Gives it another part of busy backends."""
        found = self._instance(name)
        self._store.transact(lambda connection: instances.weigh(connection, found.id, weight))

    def limit_instance(self, name: str, changes: dict[str, int | None]) -> None:
        """Changes some of its own limits, by their names in `Limits`; None is what the server's settings say."""
        found = self._instance(name)
        limits = replace(found.limits, **changes)
        self._store.transact(lambda connection: instances.limit(connection, found.id, limits))

    def instances(self, *, ended: bool = False) -> list[Instance]:
        return self._store.transact(lambda connection: instances.page(connection, ended=ended))

    def end_instance(self, name: str) -> None:
        """Its tokens end with it."""
        found = self._instance(name)
        self._store.transact(lambda connection: instances.end(connection, found.id))

    def create_token(self, instance: str, user: str, role: Role = Role.USER, days: float | None = None) -> str:
        """Returns the token itself, which is stored nowhere. It expires after `days`, or never."""
        found = self._instance(instance)
        token = tokens.new_token()
        expires = None if days is None else utc_now() + timedelta(days=days)
        digest = self._keys.token_digest(token)
        self._store.transact(lambda connection: tokens.create(connection, found.id, user, role, digest, expires))
        return token

    def tokens(self, instance: str | None = None, *, ended: bool = False) -> list[tokens.Token]:
        instance_id = self._instance(instance).id if instance else None
        return self._store.transact(lambda connection: tokens.page(connection, instance_id, ended=ended))

    def end_token(self, token_id: str) -> None:
        if not self._store.transact(lambda connection: tokens.end(connection, token_id)):
            raise AdminError(f"there is no live token {token_id!r}; neartime admin token list shows them")

    def end_user(self, instance: str, user: str) -> int:
        """End every token of a user. Returns how many there were."""
        found = self._instance(instance)
        count = self._store.transact(lambda connection: tokens.end_user(connection, found.id, user))
        if not count:
            raise AdminError(
                f"{user!r} has no live token in instance {instance!r}; "
                f"neartime admin user list --instance {instance} shows who has"
            )
        return count

    def prune(self, *, remove: bool, idle: float = IDLE, as_json: bool = False) -> int:
        """Tells what no program version needs, and removes it where that is wanted. Returns an exit status."""
        return prune(self._settings, self._store, remove=remove, idle=idle, as_json=as_json)

    def _instance(self, name: str) -> Instance:
        found = self._store.transact(
            lambda connection: instances.by_name(connection, name) or instances.by_id(connection, name)
        )
        if found is None or found.ended:
            raise AdminError(f"there is no live instance {name!r}; neartime admin instance list shows them")
        return found


def main(arguments: list[str]) -> int:
    """Carry out one command; what it makes goes to standard output.

    Raises:
        AdminError, ConfigurationError: it can't be carried out.
    """
    options = _parser().parse_args(arguments)
    if options.noun in provision.NOUNS:
        provision.run(Settings.read(), options)
        return 0
    admin = Admin(Settings.read())
    try:
        match options.noun, options.verb:
            case "prune", _:
                return admin.prune(remove=options.delete, idle=options.idle, as_json=options.json)
            case "instance", "create":
                print(admin.create_instance(options.name, options.weight))
            case "instance", "weigh":
                admin.weigh_instance(options.name, options.weight)
            case "instance", "limit":
                changes = {name: getattr(options, name) for name in _LIMITS if name in options}
                if not changes:
                    raise AdminError(f"name a limit: {', '.join(map(_option, _LIMITS))}")
                admin.limit_instance(options.name, changes)
            case "instance", "end":
                admin.end_instance(options.name)
            case "instance", _:
                rows = [
                    {
                        "id": one.id,
                        "name": one.name,
                        "weight": f"{one.weight:g}",
                        "limits": _limits(one.limits),
                        "created": _time(one.created),
                        "ended": _time(one.ended),
                    }
                    for one in admin.instances(ended=options.ended)
                ]
                _table(rows, options.json)
            case (("user" | "token"), "create"):
                print(admin.create_token(options.instance, options.user, Role(options.role), options.days))
            case "user", "end":
                admin.end_user(options.instance, options.user)
            case "token", "end":
                admin.end_token(options.id)
            case noun, _:
                names = {one.id: one.name for one in admin.instances(ended=True)}
                found = admin.tokens(options.instance, ended=options.ended)
                if noun == "user":
                    users = sorted({(names[one.instance_id], one.name, one.role.value) for one in found})
                    _table([{"instance": i, "user": u, "role": r} for i, u, r in users], options.json)
                else:
                    rows = [
                        {
                            "id": one.id,
                            "instance": names[one.instance_id],
                            "user": one.name,
                            "role": one.role.value,
                            "created": _time(one.created),
                            "expires": _time(one.expires),
                            "ended": _time(one.ended),
                        }
                        for one in found
                    ]
                    _table(rows, options.json)
    finally:
        admin.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="neartime admin", description=__doc__)
    nouns = parser.add_subparsers(dest="noun", required=True)
    instance = nouns.add_parser("instance", help="tenants").add_subparsers(dest="verb", required=True)
    for verb in ("create", "weigh", "end"):
        made = instance.add_parser(verb)
        made.add_argument("name")
        if verb != "end":
            weight = "its part of a busy backend, beside others' (1)"
            made.add_argument("--weight", type=_weight, default=1.0, required=verb == "weigh", help=weight)
    pruning = nouns.add_parser(
        "prune",
        help="environments, unpacked programs, layers and images that no program version needs",
        description="Tells what was made for program versions and is of none any more: of programs that were deleted, "
        "and of no job or worker that has not ended. It touches nothing that Neartime has not made.",
    )
    pruning.set_defaults(verb=None)
    pruning.add_argument("--delete", action="store_true", help="remove them; without it they are only told")
    idle = "seconds that a thing has to have been unused (3600)"
    pruning.add_argument("--idle", type=float, default=IDLE, metavar="SECONDS", help=idle)
    pruning.add_argument("--json", action="store_true")
    provision.add(nouns)
    limit = instance.add_parser("limit", help="limits of its own, in place of the server's settings")
    limit.add_argument("name")
    for one in _LIMITS:
        limit.add_argument(
            _option(one),
            type=_limit,
            default=argparse.SUPPRESS,
            metavar="N",
            help="a number; none; or default, what the settings say",
        )
    _listing(instance.add_parser("list"))
    for noun in ("user", "token"):
        verbs = nouns.add_parser(noun).add_subparsers(dest="verb", required=True)
        create = verbs.add_parser("create", help="print a new token, once")
        create.add_argument("user")
        create.add_argument("--instance", required=True, help="name or id")
        create.add_argument("--role", choices=[role.value for role in Role], default=Role.USER.value)
        create.add_argument("--days", type=float, help="after which it expires; never, where left out")
        listing = _listing(verbs.add_parser("list"))
        listing.add_argument("--instance", help="only of this one, by name or id")
        end = verbs.add_parser("end")
        if noun == "user":
            end.add_argument("user")
            end.add_argument("--instance", required=True, help="name or id")
        else:
            end.add_argument("id", help="of the token, as list shows it")
    return parser


_LIMITS = [one.name for one in fields(Limits)]


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _limit(text: str) -> int | None:
    if text == "default":
        return None
    if text == "none":
        return NO_LIMIT
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number, nor none, nor default")
    return int(text)


def _limits(limits: Limits) -> str | None:
    own = {name: value for name, value in asdict(limits).items() if value is not None}
    return " ".join(f"{name}={'none' if value == NO_LIMIT else value}" for name, value in own.items()) or None


def _weight(text: str) -> float:
    value = float(text)
    if not 0.001 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.001 and 1000")
    return value


def _listing(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--ended", action="store_true", help="the ended ones too")
    parser.add_argument("--json", action="store_true")
    return parser


def _time(value: datetime | None) -> str | None:
    return utc(value).isoformat(timespec="seconds") if value else None


def _table(rows: list[dict[str, str | None]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows))
        return
    lines = [list(row) for row in rows[:1]] + [[value or "-" for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
