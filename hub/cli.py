"""`shuaka-hub`: init, serve, broker, keys, doctor, device, account, token, import, attendance.

Each command is one transaction: it does all of what it says, or nothing and says why, in one line
on standard error and with exit status 1 (2: it was called wrongly). What it makes on disk can be
read by its own user alone.
"""

import io
import os
import sys
import time as clock
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Final, TextIO, cast
from zoneinfo import ZoneInfo

import structlog
import typer
from sqlalchemy import Connection, Engine, Row, inspect, select, true
from sqlalchemy.exc import DatabaseError, DBAPIError, IntegrityError, OperationalError

from hub import leaving
from hub.audit import Look, Machine, looked, record
from hub.auth.accounts import (
    AccountError,
    accounts_in,
    add_account,
    disable,
    prepare,
    reset_password,
)
from hub.auth.grants import revoke_made_by
from hub.auth.tokens import TokenError, list_tokens, new_token, revoke
from hub.authority import Authority
from hub.broker import HUB_PORT, PID_FILE, PORT, BrokerError, Told, arrange, read_anew
from hub.carried import import_paths
from hub.certificates import admitted
from hub.config import CONFIG_VARIABLE, ConfigError, Settings
from hub.days import FIRST_DAY, LAST_DAY, span_ms
from hub.devices import Added, DeviceError, add_device, move_device
from hub.doctor import examine
from hub.domain.terms import DeviceStatus, OtherHistory, Role, Term
from hub.fleet import devices
from hub.imports.plan import import_file
from hub.imports.rows import MAX_BYTES
from hub.imports.words import Register
from hub.keys import FILE_NAME, Keyring, KeysError, back_up
from hub.report import Attendance, Format, render
from hub.sealed import holders
from hub.store import queries, schema
from hub.store.engine import (
    DatabaseServedError,
    DatabaseTooNewError,
    is_current,
    migrate,
    open_engine,
    reading,
    revision,
    serving,
    unserved,
)
from hub.store.policies import Policies
from hub.store.scope import EVERYTHING
from hub.store.state import begin_generation, generation
from hub.web.words import Language, speaking, t
from protocol.topics import Broker

app = typer.Typer(
    help="Turns the taps that edges send into attendance.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
device_app = typer.Typer(help="Devices at the venues.", no_args_is_help=True)
token_app = typer.Typer(help="Access tokens for programs that use the API.", no_args_is_help=True)
account_app = typer.Typer(help="Accounts of people.", no_args_is_help=True)
keys_app = typer.Typer(help="The hub's own keys.", no_args_is_help=True)
app.add_typer(device_app, name="device")
app.add_typer(keys_app, name="keys")
app.add_typer(account_app, name="account")
app.add_typer(token_app, name="token")

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar=CONFIG_VARIABLE,
        help="hub.toml (default: /etc/shuaka/hub.toml, if it exists)",
    ),
]

Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="such as 2026-01-31T18:00 (default: now)"),
]

Replaces = Annotated[
    bool, typer.Option("--replace", help="give up what was said of its place at later times")
]

Reason = Annotated[str, typer.Option("--reason", help="why, for the log")]

Member = Annotated[str | None, typer.Option("--member", help="code of the member whose own it is")]

MAX_SHOWN: Final = 1000


def _role(text: str) -> Role:
    """A role by identifier or Chinese word, as every term is read."""
    found = Role.parse(text) if not isinstance(text, Role) else text
    if found is None:
        raise typer.BadParameter("should be one of " + ", ".join(map(_word, Role)))
    return found


def _word(term: Term) -> str:
    return f"{term.zh} {term.value}"


class NotFoundError(Exception):
    """A code, an id or a file that names nothing."""


class UnusableDatabaseError(Exception):
    """The database cannot be reached, is no hub's, or refuses; the message names it."""


_EXPECTED: Final = (
    AccountError,
    BrokerError,
    ConfigError,
    DatabaseTooNewError,
    DeviceError,
    KeysError,
    NotFoundError,
    TokenError,
    UnusableDatabaseError,
)


def main() -> None:
    """The console script: expected errors are one line on stderr and exit status 1."""
    os.umask(0o077)
    if sys.stdout is None:  # started with its output closed
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for argument in sys.argv[1:]:
        try:
            argument.encode()
        except UnicodeEncodeError:
            print(f"shuaka-hub: {argument!r} is not UTF-8 text", file=sys.stderr)
            sys.exit(2)
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except _EXPECTED as error:
        with speaking(Language.EN):  # what pages say too is Chinese
            print(f"shuaka-hub: {t(error)}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read the output has seen enough; the interpreter would flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        print(f"shuaka-hub: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


@dataclass(frozen=True, slots=True)
class _Hub:
    """An initialised hub, as a command works on it."""

    settings: Settings
    keyring: Keyring
    engine: Engine

    @classmethod
    @contextmanager
    def open(cls, config: Path | None, *, migrates: bool = False) -> Iterator["_Hub"]:
        """Commands that do not migrate take no lock, nor a schema from under an older `serve`."""
        settings = Settings.load(config)
        keyring = Keyring.load(settings.data)
        with _database(settings) as engine:
            file = engine.url.database
            if engine.dialect.name == "sqlite" and file is not None and not Path(file).exists():
                # connecting would make an empty one
                raise UnusableDatabaseError(
                    f"{file}: there is no such database; restore it, or run shuaka-hub init for a"
                    " new one under the same keys"
                )
            with reading(engine) as conn:
                if revision(conn) is None:
                    raise UnusableDatabaseError(
                        f"{_name(engine)}: is no hub's database; run shuaka-hub init, or see"
                        " whether the setting `database` is right"
                    )
                is_behind = not is_current(conn)
            if is_behind and not migrates:
                raise UnusableDatabaseError(
                    f"{_name(engine)}: is of an earlier version; start shuaka-hub serve, which"
                    " brings it up to date"
                )
            if is_behind:
                migrate(engine)
            with reading(engine) as conn:
                if generation(conn) is None:
                    raise UnusableDatabaseError(
                        f"{_name(engine)}: shuaka-hub init was interrupted; run it again"
                    )
            yield cls(settings, keyring, engine)


class _Stderr:
    """Standard error as it is now; that nobody reads it any more is no reason to end a thread."""

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()


@contextmanager
def _database(settings: Settings) -> Iterator[Engine]:
    """The engine; what is wrong with the database is told in one line that names it."""
    engine = open_engine(settings.database_url)
    try:
        yield engine
    except IntegrityError as error:
        raise UnusableDatabaseError(
            f"{_name(engine)}: another command did the same at the same time; nothing was done,"
            " try again"
        ) from error
    except DBAPIError as error:
        # Any other class is a mistake in a statement, which is ours; a role without rights is not.
        not_ours = type(error) is DatabaseError or isinstance(error, OperationalError)
        if not not_ours and type(error.orig).__name__ != "InsufficientPrivilege":
            raise
        why = " ".join(str(error.orig).split())
        raise UnusableDatabaseError(f"database {_name(engine)}: {why}") from error
    finally:
        engine.dispose()


def _name(engine: Engine) -> str:
    """The database as a person knows it: its file, or its address without the password."""
    sqlite = engine.dialect.name == "sqlite"
    return str(engine.url.database) if sqlite else engine.url.render_as_string()


@app.command()
def init(config: Config = None) -> None:
    """Make this hub's keys and its database. Do it once; what was interrupted can be repeated."""
    settings = Settings.load(config)
    try:
        settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise KeysError(f"{settings.data}: cannot be made: {error.strerror}") from error
    has_keys = (settings.data / FILE_NAME).exists()
    with _database(settings) as engine:
        with reading(engine) as conn:
            if revision(conn) is None:
                if inspect(conn).get_table_names():
                    raise UnusableDatabaseError(
                        f"{_name(engine)}: holds tables of another program; give the hub a"
                        " database of its own"
                    )
            elif generation(conn) is not None:
                raise KeysError(
                    f"{_name(engine)}: this database belongs to a hub already; "
                    + ("nothing was changed" if has_keys else f"restore its {FILE_NAME}")
                )
        keyring = (Keyring.load if has_keys else Keyring.make)(settings.data)
        migrate(engine)
        with engine.begin() as conn:
            if generation(conn) is None:
                begin_generation(conn, _now_ms())
        where = _name(engine)
    Authority.load_or_make(settings.data, _now_ms())
    print(f"Keys: {settings.data / FILE_NAME}{' (those that were there)' if has_keys else ''}")
    print(f"Database: {where}")
    print(f"Fingerprint of this hub: {keyring.public().fingerprint().hex()}")
    print("Back up hub-keys.json now (shuaka-hub keys backup FILE), apart from the database:")
    print("without it, taps that devices still hold for this hub cannot be read by anybody.")


@app.command()
def serve(config: Config = None) -> None:
    """Take in taps, answer pages and API, until stopped."""
    from hub.serve import serve as run  # noqa: PLC0415  commands that answer at once load no server

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=lambda *_: structlog.PrintLogger(cast("TextIO", _Stderr())),
    )
    with _Hub.open(config, migrates=True) as hub, serving(hub.engine):
        run(hub.engine, hub.keyring, hub.settings)
    with suppress(OSError):  # nobody may read the log
        sys.stderr.flush()
    # All is closed. The interpreter would wait for the thread of a request that was cut short and
    # waits for the database, and end with 120 over a log that nobody reads.
    os._exit(0)


@app.command()
def restored(config: Config = None) -> None:
    """Say that this database was restored from a backup; do it before `serve` starts again.

    Devices then offer once more what they still hold, and the hub takes what it lacks. Refused
    while `serve` runs, and beside what SQLite had still to write into another database.
    """
    settings = Settings.load(config)
    Keyring.load(settings.data)
    with _database(settings) as engine:
        try:
            with unserved(engine):
                _no_leftovers(engine)
                with _Hub.open(config, migrates=True) as hub, hub.engine.begin() as conn:
                    begin_generation(conn, _now_ms())
        except DatabaseServedError as error:
            raise UnusableDatabaseError(
                f"{_name(engine)}: shuaka-hub serve runs on this database; stop it, put the backup"
                " in place, then say so again"
            ) from error
    print("A new generation has begun. Start serve: devices offer what they still hold again.")


def _no_leftovers(engine: Engine) -> None:
    """Before SQLite opens the file: it would write another database's pages into this one."""
    wal = Path(f"{engine.url.database}-wal")
    if engine.dialect.name == "sqlite" and wal.exists() and wal.stat().st_size:
        raise UnusableDatabaseError(
            f"{wal}: lies beside the database. If it is of the one that was here before, move it"
            f" and {engine.url.database}-shm away. If it came with the backup, run"
            " shuaka-hub device list, which takes it in. Then say so again"
        )


@app.command()
def broker(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="where mosquitto finds its files")],
    host: Annotated[
        list[str] | None,
        typer.Option("--host", help="name or address by which devices reach it; several times"),
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help=f"for devices (default: {PORT})")
    ] = None,
    hub_port: Annotated[
        int | None, typer.Option("--hub-port", help=f"for the hub, at 127.0.0.1 ({HUB_PORT})")
    ] = None,
    pid_file: Annotated[
        str | None, typer.Option("--pid-file", help=f"where mosquitto says its pid ({PID_FILE})")
    ] = None,
    config: Config = None,
) -> None:
    """Write what the broker needs for TLS, and have it read that; again: as it was told before."""
    with _Hub.open(config) as hub:
        authority = Authority.load_or_make(hub.settings.data, _now_ms())
        before = Told.load(folder)
        if before is None and not host:
            raise BrokerError("--host is missing: the name by which devices reach the broker")
        before = before or Told(())
        told = Told(
            tuple(host) if host else before.hosts,
            before.port if port is None else port,
            before.hub_port if hub_port is None else hub_port,
            before.pid_file if pid_file is None else pid_file,
        )
        with reading(hub.engine) as conn:
            wanted = admitted(conn, _now_ms())
        written = arrange(folder, authority, told, wanted, _now_ms())
    print(f"{folder}: {', '.join(written) if written else 'is up to date'}")
    print(f"Devices: mqtts://{told.hosts[0]}:{told.port}")
    print(f"The hub: mqtts://127.0.0.1:{told.hub_port}")
    if why := read_anew(told.pid_file):
        print(f"Not told to read anew: {why}", file=sys.stderr)
    if hub.settings.broker_dir != str(folder.absolute()):
        print(
            f'Set broker_dir = "{folder.absolute()}" in hub.toml, so that serve keeps it up to'
            " date.",
            file=sys.stderr,
        )


@app.command()
def doctor(config: Config = None) -> None:
    """Say in plain words what is wrong here and what to do; status 1 if anything is."""
    with _Hub.open(config) as hub:
        findings = examine(hub.settings, hub.keyring, hub.engine, _now_ms())
    for finding in findings:
        print(f"{'ok  ' if finding.good else 'TODO'} {finding.what}")
        if finding.advice:
            print(f"       {finding.advice}")
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)


@keys_app.command("backup")
def keys_backup(
    file: Annotated[Path, typer.Argument(help="a new file, best on a stick for the safe")],
    config: Config = None,
) -> None:
    """Copy the hub's keys to a new file; doctor asks for it until it is done, and anew after
    each change of keys.
    """
    settings = Settings.load(config)
    Keyring.load(settings.data)
    back_up(settings.data, file)
    print(f"{file}: holds the keys of this hub. Keep it apart from the database's backup.")


@keys_app.command("list")
def keys_list(config: Config = None) -> None:
    """List the keys to which devices seal, and which devices may still hold taps under each."""
    with _Hub.open(config) as hub, reading(hub.engine) as conn:
        held = holders(conn, hub.keyring)
    for index, (key, names) in enumerate(held.items()):
        print(f"{key.hex()}\t{'retired' if index else 'in use'}\t{'、'.join(names) or '-'}")


@keys_app.command("rotate")
def keys_rotate(config: Config = None) -> None:
    """Make new keys, to sign and to be sealed to; devices follow when they are heard next."""
    with _Hub.open(config) as hub:
        rotated = hub.keyring.rotate(hub.settings.data)
        with hub.engine.begin() as conn:
            record(conn, Machine(), "keys.rotate", None, "hub", None, _now_ms())
    print(f"Fingerprint of this hub: {rotated.public().fingerprint().hex()}")
    print("Restart serve now: until then the keys before count, and no new code is taken.")
    print("Codes not yet used name the keys before: give new ones. Back the keys up anew.")


@keys_app.command("drop")
def keys_drop(
    key: Annotated[str, typer.Argument(help="id of a retired key, see keys list")],
    config: Config = None,
) -> None:
    """Forget a retired key; refused as long as a device may hold taps under it."""
    try:
        key_id = bytes.fromhex(key)
    except ValueError as error:
        raise typer.BadParameter(f"{key!r} is no id of a key, see keys list") from error
    with _Hub.open(config) as hub:
        with reading(hub.engine) as conn:
            names = holders(conn, hub.keyring).get(key_id, [])
        if names and key_id != hub.keyring.open[0].public_id:
            raise KeysError(f"{key}: devices may hold taps under this key: {'、'.join(names)}")
        hub.keyring.without(key_id, hub.settings.data)
        with hub.engine.begin() as conn:
            record(conn, Machine(), "keys.drop", None, "hub", None, _now_ms(), key=key)


@device_app.command("add")
def device_add(
    name: Annotated[str, typer.Argument(help="a name of your own, such as 三楼会议室-01")],
    venue: Annotated[str, typer.Option("--venue", help="code of the venue where it hangs")],
    config: Config = None,
) -> None:
    """Add a device and print its one-time code; again for a waiting device: a new code."""
    with _Hub.open(config) as hub, hub.engine.begin() as conn:
        added = add_device(
            conn, Machine(), hub.keyring.public().fingerprint(), name, venue, _now_ms()
        )
        zone = _zone(conn)
    _print_code(hub, added, zone)


def _print_code(hub: _Hub, added: Added, zone: ZoneInfo) -> None:
    until = datetime.fromtimestamp(added.expires_ms / 1000, zone)
    print(added.code)
    print(f"At the device, before {until:%Y-%m-%d %H:%M}:", file=sys.stderr)
    print(f"  shuaka-edge enrol --hub URL_OF_THIS_HUB --code {added.code}", file=sys.stderr)
    broker = Broker.parse(hub.settings.broker_for_edges)
    if broker.host in {"localhost", "127.0.0.1", "::1"}:
        print(
            f"Note: devices will be told that the broker is {hub.settings.broker_for_edges}, which"
            " only this machine can reach; set edge_mqtt for devices elsewhere.",
            file=sys.stderr,
        )


@device_app.command("move")
def device_move(
    name: Annotated[str, typer.Argument(help="the device's name")],
    venue: Annotated[str, typer.Option("--venue", help="code of the venue where it hangs now")],
    since: Since = None,
    replaces: Replaces = False,
    config: Config = None,
) -> None:
    """Say that a device hangs at another venue now; what it recorded since is read anew."""
    _move(config, name, venue, since, replaces=replaces)


@device_app.command("unplace")
def device_unplace(
    name: Annotated[str, typer.Argument(help="the device's name")],
    since: Since = None,
    replaces: Replaces = False,
    config: Config = None,
) -> None:
    """Say that a device hangs at no venue now; what it recorded since is read anew."""
    _move(config, name, None, since, replaces=replaces)


def _move(
    config: Path | None, name: str, venue: str | None, since: str | None, *, replaces: bool
) -> None:
    with _Hub.open(config) as hub, hub.engine.begin() as conn:
        at_ms = (
            _now_ms() // 1000 * 1000 if since is None else _moment("--since", since, _zone(conn))
        )
        move_device(conn, Machine(), name, venue, at_ms, _now_ms(), replaces=replaces)


@device_app.command("retire")
def device_retire(
    name: Annotated[str, typer.Argument(help="the device's name")],
    reason: Reason,
    gone: Annotated[
        bool, typer.Option("--gone", help="it is lost or broken: it has left now, 遗失退役")
    ] = False,
    config: Config = None,
) -> None:
    """Retire a device (退役): it records nothing more, hands over what it holds, and has left.

    With --gone it has left at once; what it may still hold keeps its meetings 待定.
    """
    with _Hub.open(config) as hub, hub.engine.begin() as conn:
        device = leaving.device_named(conn, name)
        act = leaving.give_up if gone else leaving.retire
        act(conn, Machine(), device.public_id, reason, _now_ms())
    if not gone:
        print("The device is told by serve. Leave its power and network on until it has left.")


@device_app.command("compromise")
def device_compromise(
    name: Annotated[str, typer.Argument(help="the device's name")],
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="such as 2026-01-31T18:00")],
    reason: Reason,
    config: Config = None,
) -> None:
    """Say that a device or its key is in wrong hands (失密): what came in since counts no more.

    What came before stays. Later arrivals are kept, without a receipt, until admitted.
    """
    with _Hub.open(config) as hub, hub.engine.begin() as conn:
        device = leaving.device_named(conn, name)
        since_ms = _moment("--since", since, _zone(conn))
        leaving.compromise(conn, Machine(), device.public_id, since_ms, reason, _now_ms())
    print("What comes from it is held: see device list, and device admit. Move the device away.")


@device_app.command("admit")
def device_admit(
    name: Annotated[str, typer.Argument(help="the device's name")],
    since: Annotated[
        str, typer.Option("--from", metavar="TIME", help="when the first of it came in")
    ],
    until: Annotated[str, typer.Option("--to", metavar="TIME", help="it came in before this time")],
    reason: Reason,
    config: Config = None,
) -> None:
    """Answer for what came in from a device within a time (核准): it counts, and has receipts."""
    with _Hub.open(config) as hub, hub.engine.begin() as conn:
        device = leaving.device_named(conn, name)
        zone = _zone(conn)
        number = leaving.admit(
            conn,
            Machine(),
            device.public_id,
            _moment("--from", since, zone),
            _moment("--to", until, zone),
            reason,
            _now_ms(),
        )
    print(f"Admitted: {number} entries; serve takes them in.")


@device_app.command("settle")
def device_settle(
    name: Annotated[str, typer.Argument(help="the device's name")],
    other: Annotated[
        str,
        typer.Option(
            "--other", help="what became of the other history: IN_HAND 已全部收到, LOST 已经丢失"
        ),
    ],
    reason: Reason,
    config: Config = None,
) -> None:
    """Settle a device's forked record (处理分叉), once somebody has looked into it."""
    said = OtherHistory.parse(other) or OtherHistory.parse(other.upper().replace("-", "_"))
    if said is None:
        raise typer.BadParameter("--other: should be IN_HAND or LOST")
    with _Hub.open(config) as hub, hub.engine.begin() as conn:
        device = leaving.device_named(conn, name)
        leaving.settle(conn, Machine(), device.public_id, said, reason, _now_ms())


@device_app.command("rename")
def device_rename(
    name: Annotated[str, typer.Argument(help="the device's name")],
    to: Annotated[str, typer.Argument(help="what it is called from now on")],
    reason: Reason,
    config: Config = None,
) -> None:
    """Give a device another name; it is the same device."""
    with _Hub.open(config) as hub, hub.engine.begin() as conn:
        device = leaving.device_named(conn, name)
        leaving.rename(conn, Machine(), device.public_id, to, reason, _now_ms())


@device_app.command("renew")
def device_renew(
    name: Annotated[str, typer.Argument(help="the device's name")],
    reason: Reason,
    config: Config = None,
) -> None:
    """Enrol a device again under its name, as another (重新登记); prints its one-time code.

    For one whose storage died, or that is believed no more. What it recorded stays with whom it
    was, who has left and is called NAME（旧1）.
    """
    with _Hub.open(config) as hub, hub.engine.begin() as conn:
        device = leaving.device_named(conn, name)
        fingerprint = hub.keyring.public().fingerprint()
        added = leaving.renew(conn, Machine(), fingerprint, device.public_id, reason, _now_ms())
        zone = _zone(conn)
    _print_code(hub, added, zone)


@device_app.command("list")
def device_list(config: Config = None) -> None:
    """List the devices: status, venue and since when, last contact, entries not yet sent, 演练."""
    with _Hub.open(config) as hub, reading(hub.engine) as conn:
        zone = _zone(conn)
        found = devices(conn, EVERYTHING, _now_ms(), zone)
    for each in found:
        venue = "-" if each.venue is None else each.venue.code
        since, contact = (
            "-" if at_ms is None else _local(at_ms, zone)
            for at_ms in (each.placed_ms, each.last_contact_ms)
        )
        backlog = "-" if each.unreceipted is None else each.unreceipted
        line = f"{each.name}\t{each.status}\t{venue}\t{since}\t{contact}\t{backlog}"
        if each.rehearsed is not None:
            line += f"\t演练 {_local(each.rehearsed.at_ms, zone)} {each.rehearsed.taps}"
        if each.leaving.retiring_ms is not None and each.status is DeviceStatus.ACTIVE:
            line += f"\t正在退役 {_local(each.leaving.retiring_ms, zone)}"
        if each.leaving.is_forked:
            line += "\t记录分叉"
        if (waits := each.leaving.waiting) is not None:
            span = f"{_local(waits.from_ms, zone)} {_local(waits.to_ms, zone)}"
            line += f"\t等待核准 {waits.entries} {span}"
        print(line)


@account_app.command("add")
def account_add(
    login: Annotated[str, typer.Argument(help="what is typed to sign in")],
    name: Annotated[str, typer.Option("--name", help="whose account it is")],
    role: Annotated[Role, typer.Option("--role", help="what the account may do", parser=_role)],
    organisation: Annotated[
        str, typer.Option("--org", help="code of the organisation whose sub-tree it may see")
    ],
    member: Member = None,
    config: Config = None,
) -> None:
    """Make an account and print its first password, which is replaced at the first sign-in."""
    prepared, now_ms = prepare(), _now_ms()
    with _Hub.open(config) as hub, hub.engine.begin() as conn:
        organisation_id = _organisation_id(conn, organisation)
        member_id = _member_id(conn, member)
        public_id = add_account(
            conn,
            login=login,
            name=name,
            role=role,
            organisation_id=organisation_id,
            member_id=member_id,
            hashed=prepared.hashed,
            must_change=True,
            now_ms=now_ms,
        )
        record(
            conn,
            Machine(),
            "account.create",
            organisation_id,
            "account",
            public_id,
            now_ms,
            role=role,
        )
        if member_id is not None:
            looked(conn, Machine(), Look("account.create", member_id=member_id), now_ms)
    print(prepared.password)


@account_app.command("reset")
def account_reset(login: str, config: Config = None) -> None:
    """Give an account a new first password and print it; its sessions end, and its lock."""
    prepared, now_ms = prepare(), _now_ms()
    with _Hub.open(config) as hub, hub.engine.begin() as conn:
        row = _account(conn, login)
        reset_password(conn, row.id, prepared.hashed, None)
        record(
            conn,
            Machine(),
            "account.reset_password",
            row.organisation_id,
            "account",
            row.public_id,
            now_ms,
        )
        if row.member_id is not None:
            looked(conn, Machine(), Look("account.reset", member_id=row.member_id), now_ms)
    print(prepared.password)


@account_app.command("disable")
def account_disable(login: str, config: Config = None) -> None:
    """End an account and its sessions; what was done with it stays."""
    with _Hub.open(config) as hub, hub.engine.begin() as conn:
        row = _account(conn, login)
        disable(conn, row.id, _now_ms())
        revoke_made_by(conn, Machine(), row.id, _now_ms())
        record(
            conn,
            Machine(),
            "account.disable",
            row.organisation_id,
            "account",
            row.public_id,
            _now_ms(),
        )


@account_app.command("list")
def account_list(config: Config = None) -> None:
    """List the accounts, their roles and organisations."""
    with _Hub.open(config) as hub, reading(hub.engine) as conn:
        for row in accounts_in(conn, true()):
            is_locked = (row.locked_until_ms or 0) > _now_ms()
            state = "locked" if is_locked else "active"
            if row.disabled_ms is not None:
                state = "disabled"
            print(f"{row.login}\t{row.name}\t{_word(Role(row.role))}\t{row.organisation}\t{state}")


def _account(conn: Connection, login: str) -> Row[Any]:
    row = conn.execute(
        select(schema.accounts).where(schema.accounts.c.login == login.casefold())
    ).one_or_none()
    if row is None:
        raise NotFoundError(f"{login!r}: there is no account of this login")
    return row


def _organisation_id(conn: Connection, code: str) -> int:
    found: int | None = conn.scalar(
        select(schema.organisations.c.id).where(schema.organisations.c.code == code)
    )
    if found is None:
        raise NotFoundError(f"{code!r}: there is no organisation of this code")
    return found


def _member_id(conn: Connection, code: str | None) -> int | None:
    if code is None:
        return None
    found: int | None = conn.scalar(
        select(schema.members.c.id).where(schema.members.c.code == code)
    )
    if found is None:
        raise NotFoundError(f"{code!r}: there is no member of this code")
    return found


@token_app.command("add")
def token_add(
    name: Annotated[str, typer.Argument(help="whose token it is")],
    organisation: Annotated[
        str, typer.Option("--org", help="code of the organisation whose sub-tree it may see")
    ],
    role: Annotated[
        Role, typer.Option("--role", help="what its holder may do", parser=_role)
    ] = Role.AUDITOR,
    member: Member = None,
    config: Config = None,
) -> None:
    """Make an access token and print it; it is shown this once."""
    name = name.strip()
    with _Hub.open(config) as hub, hub.engine.begin() as conn:
        member_id = _member_id(conn, member)
        token = new_token(conn, name, organisation, _now_ms(), role=role, member_id=member_id)
        _record_token(conn, "token.create", name, role=role)
        if member_id is not None:
            looked(conn, Machine(), Look("token.create", member_id=member_id), _now_ms())
    print(token)


@token_app.command("revoke")
def token_revoke(name: str, config: Config = None) -> None:
    """Make a token worthless at once."""
    with _Hub.open(config) as hub, hub.engine.begin() as conn:
        if revoke(conn, name, _now_ms()):
            _record_token(conn, "token.revoke", name)


def _record_token(conn: Connection, what: str, name: str, **details: Any) -> None:
    row = conn.execute(select(schema.tokens).where(schema.tokens.c.name == name)).one()
    record(
        conn,
        Machine(),
        what,
        row.organisation_id,
        "token",
        row.public_id,
        _now_ms(),
        **details,
    )


@token_app.command("list")
def token_list(config: Config = None) -> None:
    """List the tokens ever made, without what is secret of them."""
    with _Hub.open(config) as hub, reading(hub.engine) as conn:
        zone = _zone(conn)
        for each in list_tokens(conn):
            made = datetime.fromtimestamp(each.created_ms / 1000, zone)
            state = each.state(_now_ms())
            role = _word(each.role)
            print(f"{each.name}\t{role}\t{each.organisation_code}\t{made:%Y-%m-%d %H:%M}\t{state}")


@app.command("import")
def take_in(
    register: Annotated[Register, typer.Argument(help="what the file holds")],
    file: Annotated[Path, typer.Argument(help="Excel (.xlsx, .xls), or CSV in UTF-8")],
    rename: Annotated[
        bool, typer.Option("--rename", help="members: names that differ are new names")
    ] = False,
    config: Config = None,
) -> None:
    """Take an Excel or CSV file in, all of it or nothing; the same file again changes nothing."""
    if rename and register is not Register.MEMBERS:
        raise typer.BadParameter("--rename goes with members: other names are simply taken")
    try:
        with file.open("rb") as source:
            data = source.read(MAX_BYTES + 1)  # one more shows that it is too large
    except OSError as error:
        raise NotFoundError(f"{file}: {error.strerror}") from error
    with _Hub.open(config) as hub, hub.engine.connect() as conn, conn.begin() as transaction:
        report = import_file(conn, register, data, _now_ms(), renames=rename)
        if not report.ok:
            transaction.rollback()
    for problem in report.problems:
        print(f"{file}: {problem}", file=sys.stderr)
    if not report.ok:
        print(
            f"{file}: {len(report.problems)} problem(s) in {report.rows} rows; nothing was taken",
            file=sys.stderr,
        )
        raise typer.Exit(1)
    print(
        f"{file}: {report.rows} rows: {report.added} added, {report.changed} changed,"
        f" {report.unchanged} unchanged"
    )


@app.command("import-journal")
def import_journal(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FILE_OR_FOLDER…", help="files from devices, or a stick's folder"),
    ],
    receipts: Annotated[
        Path | None,
        typer.Option("--receipts", metavar="FOLDER", help="where receipts go (default: beside)"),
    ] = None,
    config: Config = None,
) -> None:
    """Take in what a U盘 brought from devices, and write their receipts for the way back.

    The same again changes nothing; it may run beside serve. Status 1 if a file was not whole, or
    something in it was not taken.
    """
    if receipts is not None and not receipts.is_dir():
        raise NotFoundError(f"{receipts}: is no folder")
    with _Hub.open(config) as hub:
        well = import_paths(hub.engine, hub.keyring, paths, receipts, _now_ms(), print)
    if not well:
        raise typer.Exit(1)


@app.command()
def rejections(
    last: Annotated[
        int, typer.Option("--last", min=0, max=MAX_SHOWN, help="how many samples to show")
    ] = 10,
    config: Config = None,
) -> None:
    """Show what was not taken in, by reason, and samples of the latest."""
    counts, samples = schema.rejection_counts.c, schema.rejections.c
    with _Hub.open(config) as hub, reading(hub.engine) as conn:
        zone = _zone(conn)
        by_reason = conn.execute(
            select(counts.reason, counts.count, counts.last_ms).order_by(counts.reason)
        ).all()
        latest = conn.execute(
            select(samples.at_ms, samples.reason, samples.topic, samples.size, samples.sample)
            .order_by(samples.id.desc())
            .limit(last)
        ).all()
    if not by_reason:
        print("nothing was rejected so far")
    for reason, count, last_ms in by_reason:
        print(f"{reason}\t{count}\tlast {_local(last_ms, zone)}")
    for at_ms, reason, topic, size, sample in latest:
        print(f"{_local(at_ms, zone)}\t{reason}\t{size} bytes\t{topic}\t{sample[:16].hex()}…")


@app.command()
def attendance(
    meeting: Annotated[str | None, typer.Argument(help="code of a meeting")] = None,
    member: Annotated[str | None, typer.Option("--member", help="code of a member")] = None,
    organisation: Annotated[
        str | None, typer.Option("--org", help="code of an organisation: its whole sub-tree")
    ] = None,
    first: Annotated[
        str | None, typer.Option("--from", metavar="DATE", help="first day, such as 2026-01-01")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="DATE", help="last day")] = None,
    output: Annotated[Format, typer.Option("--format", help="how to print it")] = Format.TABLE,
    config: Config = None,
) -> None:
    """Print the attendance of a meeting, a member, or an organisation's sub-tree."""
    if sum(each is not None for each in (meeting, member, organisation)) != 1:
        raise typer.BadParameter("name one of: a meeting, --member, --org")
    if meeting is not None and (first or last):
        raise typer.BadParameter("--from and --to go with --member and --org")
    with _Hub.open(config) as hub, reading(hub.engine) as conn:
        now, zone = _now_ms(), _zone(conn)
        found: Attendance | None
        if meeting is not None:
            what = f"{meeting!r}: there is no meeting of this code"
            found = queries.meeting_attendance(conn, EVERYTHING, meeting, now, zone)
        else:
            period = _period(first, last, zone)
            if member is not None:
                what = f"{member!r}: there is no member of this code"
                found = queries.member_attendance(conn, EVERYTHING, member, *period, now)
            else:
                what = f"{organisation!r}: there is no organisation of this code"
                found = queries.organisation_attendance(
                    conn, EVERYTHING, str(organisation), *period, now
                )
    if found is None:
        raise NotFoundError(what)
    print(render(found, output, zone), end="")


def _period(first: str | None, last: str | None, zone: ZoneInfo) -> tuple[int, int]:
    """From the first day's midnight to that after the last day; all time where none is named."""
    begin = FIRST_DAY if first is None else _day("--from", first)
    end = LAST_DAY if last is None else _day("--to", last)
    if end < begin:
        raise typer.BadParameter(f"--to {end} is before --from {begin}")
    return span_ms(begin, end, zone)


def _day(option: str, text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {text!r} is no day, such as 2026-01-31") from error
    if not FIRST_DAY <= day <= LAST_DAY:
        raise typer.BadParameter(f"{option}: {text!r}: the days are {FIRST_DAY} to {LAST_DAY}")
    return day


def _moment(option: str, text: str, zone: ZoneInfo) -> int:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{option}: {text!r} is no time, such as 2026-01-31T18:00"
        ) from error
    if not FIRST_DAY <= at.date() <= LAST_DAY:
        raise typer.BadParameter(f"{option}: {text!r}: the days are {FIRST_DAY} to {LAST_DAY}")
    return int((at if at.tzinfo else at.replace(tzinfo=zone)).timestamp() * 1000)


def _local(at_ms: int, zone: ZoneInfo) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, zone):%Y-%m-%d %H:%M:%S}"


def _now_ms() -> int:
    return clock.time_ns() // 1_000_000


def _zone(conn: Connection) -> ZoneInfo:
    return Policies.load(conn).zone(_now_ms())
