"""`shuaka-edge`: run, enrol, certificate, act, export, journal, doctor, rehearse."""

import argparse
import io
import logging
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, assert_never

from edge.acts import Again, Done, Refused, Unknown, Waiting, Why, Wish, named
from edge.actsocket import ActError, ActLine, ask_statement
from edge.certificate import CertificateError, request
from edge.config import Config, ConfigError, load
from edge.couriers.file import Export, folder_of, up_name, write_whole
from edge.daemon import Daemon, inputs
from edge.desk import IssueError
from edge.doctor import examine
from edge.enrol import (
    EnrolError,
    IdentityError,
    enrol,
    keep_hub_url,
    load_hub_url,
    load_identity,
)
from edge.issue import issue
from edge.rehearsal.run import Fault, RehearsalError, Wanted, rehearse
from edge.request import HubAddress, RequestError
from edge.store import FILE_NAME, JournalError, JournalReader, salvage_into
from protocol.credential import Credential, InvalidCredentialError, member_credential
from protocol.errors import RemoteError
from protocol.identity import EnrolmentCode, InvalidCodeError
from protocol.journal import (
    MAX_HEAD_COUNT,
    Act,
    Action,
    ClockSample,
    Entry,
    ReaderDown,
    ReaderUp,
    Tap,
    decode_entry,
)
from protocol.topics import Broker

DEFAULT_CONFIG: Final = Path("/etc/shuaka/edge.toml")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; exits with 0, 1 (it did not work) or 2 (it was called wrongly)."""
    os.umask(0o077)
    if sys.stdout is None:  # started with its output closed
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    try:
        try:
            status = options.run(options)
        finally:
            sys.stdout.flush()
    except (
        ActError,
        CertificateError,
        ConfigError,
        EnrolError,
        IdentityError,
        InvalidCodeError,
        IssueError,
        JournalError,
        RehearsalError,
        RequestError,
    ) as error:
        print(f"shuaka-edge: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        # whoever read the output has seen enough
        _forget_output()
        status = 0
    except OSError as error:
        print(f"shuaka-edge: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        _forget_output()
        status = 1
    sys.exit(status)


def _forget_output() -> None:
    """What was not written stays unwritten: the interpreter would try once more at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shuaka-edge", description="Reads cards at a venue and brings every tap to the hub."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, what: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=what, description=what)
        sub.add_argument(
            "--config",
            type=Path,
            help=f"configuration file (default {DEFAULT_CONFIG}, if it exists)",
        )
        return sub

    run = command("run", "Record taps and send them, until stopped.")
    run.add_argument("--verbose", action="store_true", help="log more")
    run.set_defaults(run=_run)

    join = command("enrol", "Join a hub with a one-time code from `shuaka-hub device add`.")
    join.add_argument("--hub", required=True, metavar="URL", help="such as https://hub.example")
    join.add_argument("--code", required=True, help="six groups of five characters")
    join.set_defaults(run=_enrol)

    certificate = command(
        "certificate", "Ask the hub for a certificate for the broker now; run does it by itself."
    )
    certificate.add_argument(
        "--hub", metavar="URL", help="where the hub is from now on (default: as at enrolment)"
    )
    certificate.set_defaults(run=_certificate)

    act = command("act", "Record what happens at a meeting here, with a card that authorises it.")
    acts = act.add_subparsers(required=True, metavar="ACT")

    def verb(name: str, what: Act, help_: str) -> argparse.ArgumentParser:
        sub = acts.add_parser(name, help=f"{named(what)}: {help_}", description=help_)
        sub.add_argument("--config", type=Path, default=argparse.SUPPRESS, help="as above")
        sub.set_defaults(run=_act, what=what, number=None, member=None)
        return sub

    verb("open", Act.OPENED, "the meeting here begins")
    verb("close", Act.CLOSED, "the meeting here is over")
    verb("head-count", Act.HEAD_COUNT, "so many people are here").add_argument(
        "number", type=_people, metavar="N"
    )
    verb("witness", Act.WITNESSED, "this member is here, without a card").add_argument(
        "member", type=_member, metavar="MEMBER_CODE", help="as the hub's register has it"
    )

    desk = command("issue", "发卡台: say whose cards are, with a reader here; needs no enrolment.")
    desk.add_argument("--hub", required=True, metavar="URL", help="such as https://hub.example")
    desk.add_argument(
        "--token-file",
        required=True,
        type=Path,
        metavar="FILE",
        help="an access token of the hub, in a file that nobody else may read",
    )
    how = desk.add_mutually_exclusive_group()
    how.add_argument(
        "--list", type=Path, metavar="FILE.csv", help="members' codes, who get cards in this order"
    )
    how.add_argument(
        "--station", action="store_true", help="only read: the hub's page 发卡台 is the screen"
    )
    desk.set_defaults(run=_issue)

    export = command(
        "export", "Write what the hub has not received into a file, for a U盘; run may go on."
    )
    export.add_argument("file", type=Path, metavar="FILE", help="or a folder, such as a stick's")
    export.add_argument(
        "--all", action="store_true", dest="is_all", help="also what the hub has received"
    )
    export.set_defaults(run=_export)

    journal = command("journal", "Look into the journal, or save what a damaged one still holds.")
    _journal_parser(journal)

    doctor = command("doctor", "Say in plain words what is wrong here and what to do.")
    doctor.set_defaults(run=_doctor)

    try_it = command(
        "rehearse", "演练: try this venue with virtual cards and faults; nothing of it counts."
    )
    try_it.add_argument(
        "--cards", type=_count, default=12, metavar="N", help="virtual cards (default 12)"
    )
    try_it.add_argument(
        "--faults",
        type=_faults,
        default=frozenset(Fault),
        metavar="LIST",
        help=f"of {','.join(Fault)}, or none (default all)",
    )
    try_it.add_argument(
        "--seconds",
        type=_count,
        default=60,
        metavar="S",
        help="how long to wait for the hub's receipts at the end (default 60)",
    )
    try_it.add_argument("--offline", action="store_true", help="without a hub")
    try_it.add_argument(
        "--seed", type=_count, metavar="N", help="the same order of things once more"
    )
    try_it.add_argument("--verbose", action="store_true", help="show the daemon's log")
    try_it.set_defaults(run=_rehearse)
    return parser


def _journal_parser(journal: argparse.ArgumentParser) -> None:
    parts = journal.add_subparsers(required=True, metavar="WHAT")

    def part(name: str, what: str) -> argparse.ArgumentParser:
        sub = parts.add_parser(name, help=what, description=what)
        sub.add_argument("--config", type=Path, default=argparse.SUPPRESS, help="as above")
        sub.set_defaults(run=_journal, what=name)
        return sub

    part("list", "Each entry, oldest first.").add_argument(
        "--last", type=_count, metavar="N", help="only the last N entries"
    )
    part("verify", "Hold every entry to its digest; status 1 if anything is wrong.")
    save = part("salvage", "Take over what can be read of a damaged journal; the hub gets it then.")
    save.add_argument("damaged", type=Path, metavar="DAMAGED", help="it is only read")
    save.add_argument(
        "into",
        type=Path,
        nargs="?",
        metavar="INTO",
        help="the folder whose journal takes it (default: edge.data), made if need be; no"
        " shuaka-edge may be running there",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 up")
    return int(text)


def _faults(text: str) -> frozenset[Fault]:
    if text == "none":
        return frozenset()
    try:
        return frozenset(Fault(each.strip()) for each in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of {', '.join(Fault)}, and not none"
        ) from error


def _people(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > MAX_HEAD_COUNT:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {MAX_HEAD_COUNT}")
    return int(text)


def _member(text: str) -> Credential:
    try:
        return member_credential(text)
    except InvalidCredentialError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _config_path(options: argparse.Namespace) -> Path | None:
    """The file that counts; None: there is none, and the defaults do."""
    if options.config is None and not DEFAULT_CONFIG.exists():
        return None
    return Path(options.config or DEFAULT_CONFIG)


def _config(options: argparse.Namespace) -> Config:
    path = _config_path(options)
    return Config() if path is None else load(path)


def _run(options: argparse.Namespace) -> int:
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    return Daemon(_config(options)).run()


def _enrol(options: argparse.Namespace) -> int:
    code = EnrolmentCode.parse(options.code)
    config = _config(options)
    enrolment = enrol(config.edge.data, options.hub, code)
    print(f"Enrolled as {enrolment.name}. A running shuaka-edge begins to record by itself.")
    if Broker.parse(config.mqtt.url or enrolment.mqtt_url).tls:
        try:
            _ask_certificate(config.edge.data)
        except CertificateError as error:
            print(f"No certificate yet, run will ask again: {error}", file=sys.stderr)
    return 0


def _certificate(options: argparse.Namespace) -> int:
    data = _config(options).edge.data
    if options.hub is not None:
        keep_hub_url(data, str(HubAddress.parse(options.hub)))
    _ask_certificate(data)
    return 0


def _ask_certificate(data: Path) -> None:
    identity = load_identity(data)
    if identity is None:
        raise CertificateError("this device is not enrolled: run shuaka-edge enrol")
    hub_url = load_hub_url(data)
    if not hub_url:
        raise CertificateError("where the hub is, is not known: give --hub URL")
    held = request(data, HubAddress.parse(hub_url), *identity)
    until = datetime.fromtimestamp(held.ends_ms / 1000, UTC)
    print(f"Certificate for the broker until {until:%Y-%m-%d}.")


def _issue(options: argparse.Namespace) -> int:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    config = _config(options)
    issue(
        config.edge.data,
        inputs(config),
        options.hub,
        options.token_file,
        sys.stdin or io.StringIO(),
        lambda words: print(words, flush=True),
        list_file=options.list,
        is_station=options.station,
    )
    return 0


def _act(options: argparse.Namespace) -> int:
    data = _config(options).edge.data
    wish = Wish(options.what, options.number, options.member)
    if load_identity(data) is None:
        raise ActError(
            "this device is not enrolled and records nothing: run"
            " shuaka-edge enrol --hub URL --code CODE"
        )
    about = "" if wish.about is None else f" of member {wish.about.value}"
    asked = f"{named(wish.what)}{about}{'' if wish.number is None else f': {wish.number}'}"
    with ActLine(data) as line:
        line.ask(wish)
        try:
            return _follow(line, asked)
        except KeyboardInterrupt:
            line.cancel()
            _follow(line, asked)
            raise


def _follow(line: ActLine, asked: str) -> int:
    """Says what becomes of it. Raises ActError where it is not recorded, or nobody knows."""
    for answer in line.answers():
        match answer:
            case Waiting(seconds):
                print(
                    f"{asked}. Hold the card that authorises it to a reader within {seconds}"
                    " seconds; one that lies there already: lift it first.",
                    flush=True,
                )
            case Again(words):
                print(f"The card was not read: {words}", flush=True)
            case Done(epoch, seq):
                print(
                    f"Recorded, as entry {epoch[:8]} {seq}. Whether that card may, the hub judges."
                )
            case Refused(Why.CANCELLED):
                print("Cancelled: nothing was recorded.")
            case Refused() | Unknown():
                raise ActError(answer.words)
            case _:
                assert_never(answer)
    return 0


def _export(options: argparse.Namespace) -> int:
    data = _config(options).edge.data
    identity = load_identity(data)
    if identity is None:
        raise IdentityError(
            "this device is not enrolled and has recorded nothing: run"
            " shuaka-edge enrol --hub URL --code CODE"
        )
    enrolment, keys = identity
    state = ask_statement(data)
    file: Path = options.file
    if file.is_dir():
        file /= up_name(enrolment.edge)
    with (
        closing(JournalReader(data)) as reader,
        folder_of(file.absolute().parent.resolve()) as folder,
    ):
        export = Export(reader, enrolment.edge, keys, state, is_all=options.is_all)
        try:
            write_whole(folder, file.name, export.pieces())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(file)) from error
    written = export.written
    print(f"{file}: {written.entries} entries, {written.size} bytes. On the hub:")
    print("  shuaka-hub import-journal FILE")
    if state is None:
        print("It does not say up to when nothing is missing: shuaka-edge run is not recording.")
    if written.unreadable:
        print(
            f"{written.unreadable} epoch(s) of the journal could not be read to their end, see"
            " shuaka-edge journal verify"
        )
        return 1
    return 0


def _journal(options: argparse.Namespace) -> int:
    if options.what == "salvage":
        return _salvage(options)
    with closing(JournalReader(_config(options).edge.data)) as reader:
        return _verify(reader) if options.what == "verify" else _list(reader, options.last)


def _list(reader: JournalReader, last: int | None) -> int:
    epochs = reader.epochs()
    skip = max(0, sum(e.head - e.first + 1 for e in epochs) - last) if last else 0
    for held in epochs:
        for seq, entry, _, _ in reader.entries(held.epoch):
            if skip:
                skip -= 1
                continue
            receipt = "received" if seq <= held.released else "not yet received"
            print(f"{held.epoch.hex()[:8]} {seq:>6}  {_describe(entry)}  [{receipt}]")
    return 0


def _describe(entry: bytes) -> str:
    try:
        decoded = decode_entry(entry)
    except RemoteError as error:
        return f"unreadable: {error.detail}"
    at = decoded.at
    when = datetime.fromtimestamp(at.wall_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    return f"{when}Z{' ' if at.trusted else '?'} {_what(decoded)}"


def _what(entry: Entry) -> str:
    match entry:
        case Tap(reader=reader, assurance=assurance):
            return f"tap at {reader} ({assurance.name.lower()}, subject sealed)"
        case Action(reader=reader, what=what, number=number, assurance=assurance, about=about):
            said = named(what) + ("" if number is None else f" {number}")
            more = "" if about is None else ", member sealed"
            return f"{said} at {reader} ({assurance.name.lower()}, subject sealed{more})"
        case ClockSample(at):
            return f"clock {'trusted' if at.trusted else 'not trusted'}"
        case ReaderUp(reader=reader):
            return f"reader up: {reader}"
        case ReaderDown(reader=reader, reason=reason):
            return f"reader down: {reader} ({reason})"


def _verify(reader: JournalReader) -> int:
    problems = 0
    for problem in reader.problems():
        print(problem)
        problems += 1
    if problems:
        print(f"{problems} problem(s): keep this file, and tell whoever runs the hub")
        return 1
    epochs = reader.epochs()
    count = sum(held.head - held.first + 1 for held in epochs)
    waiting = sum(held.head - max(held.released, held.first - 1) for held in epochs)
    print(f"sound: {count} entries in {len(epochs)} epochs, {waiting} not yet received by the hub")
    return 0


def _salvage(options: argparse.Namespace) -> int:
    data = _config(options).edge.data
    identity = load_identity(data)
    into = options.into or data
    found = salvage_into(into, options.damaged, None if identity is None else identity[0].edge)
    print(f"{found.entries} entries of {found.epochs} epochs taken over into {into / FILE_NAME}")
    if found.foreign:
        print(
            f"{found.foreign} epoch(s) are of another enrolment, under whose name alone the hub"
            " takes them: they stay where they are; keep that file"
        )
    if not found.entries:
        print("nothing was found that is not there already")
        return 1
    print("What is missing between them is stated to the hub. Start shuaka-edge: it sends them.")
    return 0


def _rehearse(options: argparse.Namespace) -> int:
    wanted = Wanted(
        faults=options.faults,
        cards=options.cards,
        seconds=options.seconds,
        seed=options.seed or 1 + secrets.randbelow(9999),
        is_offline=options.offline,
        is_verbose=options.verbose,
    )
    # ended by the service manager or by a terminal that closes: as by Ctrl-C
    ending = (signal.SIGTERM, signal.SIGHUP)
    kept = [signal.signal(number, signal.default_int_handler) for number in ending]
    try:
        report = rehearse(_config(options), _config_path(options), wanted, _say)
    finally:
        for number, handler in zip(ending, kept, strict=True):
            signal.signal(number, handler)
    return 0 if report.passed else 1


def _say(line: str) -> None:
    print(line, flush=True)


def _doctor(options: argparse.Namespace) -> int:
    findings = examine(_config(options))
    for finding in findings:
        print(f"{'ok  ' if finding.good else 'TODO'} {finding.what}")
        if finding.advice:
            print(f"       {finding.advice}")
    return 0 if all(finding.good for finding in findings) else 1


if __name__ == "__main__":
    main()
