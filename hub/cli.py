"""`shuaka-hub`: init, serve, device, token, import, attendance.

Each command is one transaction: it does all of what it says, or nothing and says why.
"""

import sys
import time as clock
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Final
from zoneinfo import ZoneInfo

import structlog
import typer
from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import OperationalError

from hub.auth.tokens import TokenError, list_tokens, new_token, revoke
from hub.config import ConfigError, Settings
from hub.devices import DeviceError, add_device
from hub.imports.registers import Register, import_csv
from hub.keys import Keyring, KeysError
from hub.report import Attendance, Format, render
from hub.store import queries, schema
from hub.store.engine import (
    DatabaseTooNewError,
    DatabaseUrlError,
    migrate,
    open_engine,
    reading,
    revision,
)
from hub.store.policies import Policies
from hub.store.state import begin_generation, generation

app = typer.Typer(
    help="Turns the taps that edges send into attendance.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
device_app = typer.Typer(help="Devices at the venues.", no_args_is_help=True)
token_app = typer.Typer(help="Access tokens for pages and API.", no_args_is_help=True)
app.add_typer(device_app, name="device")
app.add_typer(token_app, name="token")

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="SHUAKA_HUB_CONFIG",
        help="hub.toml (default: /etc/shuaka/hub.toml, if it exists)",
    ),
]

_EXPECTED: Final = (
    ConfigError,
    DatabaseTooNewError,
    DatabaseUrlError,
    DeviceError,
    KeysError,
    TokenError,
)


class NotFoundError(Exception):
    """A code or id that names nothing."""


def main() -> None:
    """The console script: expected errors are one line on stderr and exit status 1."""
    try:
        app()
    except (*_EXPECTED, NotFoundError) as error:
        print(f"shuaka-hub: {error}", file=sys.stderr)
        sys.exit(1)
    except OperationalError as error:
        print(f"shuaka-hub: the database: {error.orig}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()


@dataclass(frozen=True, slots=True)
class _Hub:
    """An initialised hub, as a command works on it."""

    settings: Settings
    keyring: Keyring
    engine: Engine

    @classmethod
    @contextmanager
    def open(cls, config: Path | None) -> Iterator["_Hub"]:
        settings = Settings.load(config)
        keyring = Keyring.load(settings.data)
        engine = open_engine(settings.database_url)
        try:
            migrate(engine)
            yield cls(settings, keyring, engine)
        finally:
            engine.dispose()


@app.command()
def init(config: Config = None) -> None:
    """Make this hub's keys and its database. Do it once."""
    settings = Settings.load(config)
    engine = open_engine(settings.database_url)
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    with reading(engine) as conn:
        if revision(conn) is not None and generation(conn) is not None:
            raise KeysError(
                f"{settings.database_url}: this database belongs to a hub already; restore its keys"
                " instead of making new ones"
            )
    migrate(engine)
    keyring = Keyring.make(settings.data)
    with engine.begin() as conn:
        begin_generation(conn, _now_ms())
    print(f"Keys and database are made in {settings.data}.")
    print(f"Fingerprint of this hub: {keyring.public().fingerprint().hex()}")
    print("Back up hub-keys.json now, apart from the database: without it, taps that devices")
    print("still hold for this hub cannot be read by anybody.")


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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    with _Hub.open(config) as hub:
        run(hub.engine, hub.keyring, hub.settings)


@device_app.command("add")
def device_add(
    name: Annotated[str, typer.Argument(help="a name of your own, such as 三楼会议室-01")],
    venue: Annotated[str, typer.Option("--venue", help="code of the venue where it hangs")],
    config: Config = None,
) -> None:
    """Add a device and print its one-time code; again for a waiting device: a new code."""
    with _Hub.open(config) as hub, hub.engine.begin() as conn:
        added = add_device(conn, hub.keyring, name, venue, _now_ms())
        zone = _zone(conn)
    until = datetime.fromtimestamp(added.expires_ms / 1000, zone)
    print(added.code)
    print(
        f"Type it at the device before {until:%Y-%m-%d %H:%M}:"
        f" shuaka-edge enrol --hub URL --code {added.code}",
        file=sys.stderr,
    )


@device_app.command("list")
def device_list(config: Config = None) -> None:
    """List the devices, where they are placed, and their status."""
    with _Hub.open(config) as hub, reading(hub.engine) as conn:
        now = _now_ms()
        rows = conn.execute(
            select(
                schema.devices.c.name, schema.devices.c.status, schema.venues.c.code.label("venue")
            )
            .outerjoin(
                schema.placements,
                (schema.placements.c.device_id == schema.devices.c.id)
                & (schema.placements.c.valid_from_ms <= now)
                & (
                    schema.placements.c.valid_to_ms.is_(None)
                    | (schema.placements.c.valid_to_ms > now)
                ),
            )
            .outerjoin(schema.venues, schema.venues.c.id == schema.placements.c.venue_id)
            .order_by(schema.devices.c.name)
        ).all()
    for row in rows:
        print(f"{row.name}\t{row.status}\t{row.venue or '-'}")


@token_app.command("add")
def token_add(
    name: Annotated[str, typer.Argument(help="whose token it is")],
    organisation: Annotated[
        str, typer.Option("--org", help="code of the organisation whose sub-tree it may see")
    ],
    config: Config = None,
) -> None:
    """Make an access token and print it; it is shown this once."""
    with _Hub.open(config) as hub, hub.engine.begin() as conn:
        print(new_token(conn, name, organisation, _now_ms()))


@token_app.command("revoke")
def token_revoke(name: str, config: Config = None) -> None:
    """Make a token, and every session begun with it, worthless at once."""
    with _Hub.open(config) as hub, hub.engine.begin() as conn:
        revoke(conn, name, _now_ms())


@token_app.command("list")
def token_list(config: Config = None) -> None:
    """List the tokens ever made, without what is secret of them."""
    with _Hub.open(config) as hub, reading(hub.engine) as conn:
        zone = _zone(conn)
        for each in list_tokens(conn):
            made = datetime.fromtimestamp(each.created_ms / 1000, zone)
            state = "revoked" if each.revoked_ms is not None else "valid"
            print(f"{each.name}\t{each.organisation_code}\t{made:%Y-%m-%d %H:%M}\t{state}")


@app.command("import")
def import_file(
    register: Annotated[Register, typer.Argument(help="what the file holds")],
    file: Annotated[Path, typer.Argument(help="CSV in UTF-8")],
    config: Config = None,
) -> None:
    """Take a CSV file in, all of it or nothing; the same file again changes nothing."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise NotFoundError(f"{file}: {error.strerror}") from error
    with _Hub.open(config) as hub, hub.engine.connect() as conn, conn.begin() as transaction:
        report = import_csv(conn, register, data, _now_ms())
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


@app.command()
def rejections(
    last: Annotated[int, typer.Option("--last", min=0, help="how many samples to show")] = 10,
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
            found = queries.meeting_attendance(conn, queries.EVERYTHING, meeting, now, zone)
        else:
            period = _period(first, last, zone)
            if member is not None:
                what = f"{member!r}: there is no member of this code"
                found = queries.member_attendance(conn, queries.EVERYTHING, member, *period, now)
            else:
                what = f"{organisation!r}: there is no organisation of this code"
                found = queries.organisation_attendance(
                    conn, queries.EVERYTHING, str(organisation), *period, now
                )
    if found is None:
        raise NotFoundError(what)
    print(render(found, output, zone), end="")


def _period(first: str | None, last: str | None, zone: ZoneInfo) -> tuple[int, int]:
    """From the first day's midnight to that after the last day; all time where none is named."""
    begin = date.min if first is None else _day("--from", first)
    end = date.max if last is None else _day("--to", last)
    if end < begin:
        raise typer.BadParameter(f"--to {end} is before --from {begin}")
    from_ms = _midnight_ms(begin, zone) if first else 0
    to_ms = _midnight_ms(end + timedelta(days=1), zone) if last else (1 << 62)
    return from_ms, to_ms


def _day(option: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {text!r} is no day, such as 2026-01-31") from error


def _midnight_ms(day: date, zone: ZoneInfo) -> int:
    return int(datetime.combine(day, time.min, zone).timestamp() * 1000)


def _local(at_ms: int, zone: ZoneInfo) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, zone):%Y-%m-%d %H:%M:%S}"


def _now_ms() -> int:
    return clock.time_ns() // 1_000_000


def _zone(conn: Connection) -> ZoneInfo:
    return Policies.load(conn).zone(_now_ms())
