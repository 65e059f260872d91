"""What an operator prepares before a server starts: `neartime admin secret|migrate|nats-config|gateway`.

A chart or a unit file calls them. None of them needs a server, and each may run again at any time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from neartime_server.bus import Keys, gateway_access
from neartime_server.bus.keys import new_secret
from neartime_server.bus.server import trust
from neartime_server.errors import AdminError, StoreUnavailable
from neartime_server.settings import Settings
from neartime_server.store import Store, instances

NOUNS: Final = ("secret", "migrate", "nats-config", "gateway")
GATEWAY_DAYS: Final = 30.0
WAIT_SECONDS: Final = 60.0
_PAUSE: Final = 1.0


def add(nouns: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Their arguments."""
    nouns.add_parser("secret", help="print a new operator's secret, for NEARTIME_SECRET_FILE; it is kept nowhere")
    migrate = nouns.add_parser(
        "migrate",
        help="bring the database's tables up to date",
        description="Brings the tables of NEARTIME_DATABASE up to date. A server does so, too, when it starts: call it "
        "where the tables should be there before the first one of a new version is. Several may run at once.",
    )
    wait = f"seconds to wait for a database that does not answer ({WAIT_SECONDS:g})"
    migrate.add_argument("--wait", type=float, default=WAIT_SECONDS, metavar="SECONDS", help=wait)
    migrate.add_argument("--instance", metavar="NAME", help="have this instance, too; it is made where it isn't there")
    config = nouns.add_parser(
        "nats-config",
        help="print the part of a NATS server's configuration that trusts this operator",
        description="Prints what a NATS server has to include so that NEARTIME_NATS_URL can be its address: whom it "
        "trusts, and where it keeps accounts and streams. It follows from the operator's secret, and holds none.",
    )
    config.add_argument("--folder", type=Path, required=True, help="for accounts and streams, on the NATS server")
    config.add_argument("--name", default="neartime", help="the NATS server's; in a cluster each has one of its own")
    gateway = nouns.add_parser(
        "gateway",
        help="print the launch document of a backend's gateway, for one that the operator starts",
        description="Prints what `python -m neartime_runner gateway FILE` reads, beside the machine. It holds a way "
        "into NATS, so keep it for the gateway alone; the machine's own credential is not in it. Write a new one into "
        "the same file before that way ends: the gateway reads it again.",
    )
    gateway.add_argument("backend", help="its name in the backends file")
    days = f"after which the way into NATS ends ({GATEWAY_DAYS:g})"
    gateway.add_argument("--days", type=float, default=GATEWAY_DAYS, metavar="DAYS", help=days)
    gateway.add_argument("--nats-url", metavar="URL", help="where the gateway reaches NATS, if not as workers do")


def run(settings: Settings, options: argparse.Namespace) -> None:
    """Carry out one of them.

    Raises:
        AdminError, ConfigurationError: it can't be carried out.
    """
    if options.noun == "secret":
        print(new_secret())
    elif options.noun == "migrate":
        _migrate(settings, options.wait, options.instance)
    elif options.noun == "gateway":
        print(_gateway(settings, options.backend, options.days, options.nats_url))
    else:
        print(trust(Keys.load(settings.secret_path), options.folder, options.name), end="")


def _gateway(settings: Settings, name: str, days: float, url: str | None) -> str:
    # The other commands begin sooner without these.
    from neartime_server.app import embedded_nats
    from neartime_server.backends import Backends
    from neartime_server.gateways import launch_of

    config = next((one for one in Backends.load(settings).gateways() if one.name == name), None)
    if config is None:
        raise AdminError(f"there is no backend {name!r} behind a gateway in the backends file")
    url = url or settings.nats_worker_url or settings.nats_url or embedded_nats(settings.home)
    access = gateway_access(Keys.load(settings.secret_path), name, url, days * 86400.0)
    return launch_of(config, access).model_dump_json()


def _migrate(settings: Settings, wait: float, instance: str | None) -> None:
    store = Store(settings.database_url, patience=0)
    deadline = time.monotonic() + wait
    try:
        while not (store.is_sqlite or _answers(store, deadline)):
            time.sleep(_PAUSE)
        store.migrate()
        if instance is not None:
            store.transact(lambda connection: instances.ensure(connection, instance))
    except SQLAlchemyError as error:
        raise AdminError(f"the database refuses: {getattr(error, 'orig', error)}; look at NEARTIME_DATABASE") from error
    finally:
        store.close()


def _answers(store: Store, deadline: float) -> bool:
    try:
        store.transact(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())
    except StoreUnavailable as error:
        if time.monotonic() + _PAUSE > deadline:
            raise AdminError(f"{error}; look at NEARTIME_DATABASE") from error
        return False
    return True
