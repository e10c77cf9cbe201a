"""The documents say what the code does: settings, commands, states, columns, policies, names.

Whatever is added to the code fails here until it is written down. What a text means is for its
readers to judge.
"""

import argparse
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import typer
from sqlalchemy import select

from edge import cli as edge_cli
from edge.config import Config
from edge.config import load as load_edge
from edge.feedback import ALREADY_RECOGNISED, ALREADY_UNKNOWN, OUT_OF_DATE, Standing
from edge.feedback import Outcome as DoorOutcome
from edge.readers import Unreadable
from hub import cli as hub_cli
from hub.config import Settings
from hub.domain import attendance, terms
from hub.domain.completeness import Obstacle
from hub.imports.words import COLUMNS, Register
from hub.store import schema
from hub.store.engine import migrate, open_engine, reading
from protocol.errors import Reason
from tests.rig.processes import Child, accepts, find_program, free_port

ROOT = Path(__file__).parents[1]
TEXTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/*.md"))
    if ".venv" not in path.parts
)
SAMPLES = [
    ROOT / "deploy" / name
    for name in (
        "edge/edge.toml",
        "hub/hub.toml",
        "broker/mosquitto.conf",
        "broker/shuaka-broker-reload.path",
        "broker/shuaka-broker-reload.service",
        "edge/shuaka-edge.service",
        "hub/shuaka-hub.service",
        "edge/50-shuaka-edge.rules",
        "edge/60-shuaka-stick.rules",
        "edge/pn533-blacklist.conf",
    )
]
OPERATIONS = (ROOT / "docs/operations.md").read_text("utf-8")
RULES = (ROOT / "docs/rules.md").read_text("utf-8")
GLOSSARY = (ROOT / "docs/glossary.md").read_text("utf-8")

EVERY_TEXT = pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))


def section(text: str, title: str) -> str:
    """From a heading to the next of the same or a higher level."""
    found = re.search(rf"^(#+) {re.escape(title)}\n", text, re.MULTILINE)
    assert found, f"there is no section {title!r}"
    rest = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def table(text: str) -> list[list[str]]:
    """The rows of all tables in a text, without their heads."""
    rows: list[list[str]] = []
    for line in text.splitlines():
        if re.fullmatch(r"\|[-| ]+\|", line):
            rows.pop()
        elif line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


# --- settings -------------------------------------------------------------------------------------


def edge_settings() -> Iterator[tuple[str, Any]]:
    """Each with its default, those of blocks that may stand there several times included."""
    yield from settings_in(Config(), "")
    for where, block in edge_blocks():
        for each in msgspec.structs.fields(block):
            yield f"{where}.{each.encode_name}", each.default


def settings_in(section: msgspec.Struct, where: str) -> Iterator[tuple[str, Any]]:
    for each in msgspec.structs.fields(section):
        value, name = getattr(section, each.name), f"{where}{each.encode_name}"
        if isinstance(value, msgspec.Struct):
            yield from settings_in(value, f"{name}.")
        elif not is_block(each.type):
            yield name, value


def edge_blocks() -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """Where `[[section.name]]` may stand, and what one holds."""
    for part in msgspec.structs.fields(Config):
        for each in msgspec.structs.fields(part.default):
            if is_block(each.type):
                yield f"{part.name}.{each.encode_name}", get_args(each.type)[0]


def is_block(kind: Any) -> bool:
    held = get_args(kind)[:1]
    return bool(held) and isinstance(held[0], type) and issubclass(held[0], msgspec.Struct)


def hub_settings() -> Iterator[tuple[str, Any]]:
    for name, field in Settings.model_fields.items():
        yield name, field.default


def shown(default: Any) -> str:
    match default:
        case None:
            return "none"
        case msgspec.NODEFAULT:
            return "required"
        case tuple():
            return f"`{json.dumps(default)}`"
        case "":
            return "empty"
        case bool():
            return f"`{str(default).lower()}`"
        case Enum():
            return f"`{default.value}`"
        case _:
            return f"`{default}`"


@pytest.mark.parametrize(
    ("title", "settings"), [("edge.toml", edge_settings), ("hub.toml", hub_settings)]
)
def test_every_setting_is_described_with_its_default(title: str, settings: Any) -> None:
    told = {row[0].strip("`"): row[1] for row in table(section(OPERATIONS, title))}
    assert told == {name: shown(default) for name, default in settings()}


def uncommented(sample: Path, into: Path) -> Path:
    """The sample with every commented setting in force."""
    text = re.sub(r"^#(?=[a-z_]+ = )", "", sample.read_text("utf-8"), flags=re.MULTILINE)
    into.write_text(text, "utf-8")
    return into


def flat(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": each for inner, each in flat(value).items()}
        else:
            found[name] = value
    return found


def test_the_sample_for_the_edge_loads_and_shows_every_default(tmp_path: Path) -> None:
    sample = ROOT / "deploy/edge/edge.toml"
    assert load_edge(sample) == Config()
    full = uncommented(sample, tmp_path / "edge.toml")
    config = load_edge(full)
    assert (
        set(flat(tomllib.loads(full.read_text("utf-8")))) == dict(settings_in(Config(), "")).keys()
    )
    blocks = re.findall(
        r"^# \[\[([\w.]+)\]\]\n((?:# \w+ = .*\n)+)", sample.read_text("utf-8"), re.MULTILINE
    )
    shown = {where: set(re.findall(r"^# (\w+) =", text, re.MULTILINE)) for where, text in blocks}
    assert shown == {
        where: {each.encode_name for each in msgspec.structs.fields(block)}
        for where, block in edge_blocks()
    }
    examples = "\n".join(f"[[{where}]]\n{text.replace('# ', '')}" for where, text in blocks)
    example = tmp_path / "examples.toml"
    example.write_text(examples, "utf-8")
    assert load_edge(example) != Config()
    assert config.mqtt.url is not None
    assert config.kiosk.port is not None
    assert config.usb.mounts is not None
    plain = Config()
    assert config.feedback.gpio.used
    without_example = msgspec.structs.replace(
        config,
        mqtt=plain.mqtt,
        usb=plain.usb,
        kiosk=plain.kiosk,
        feedback=msgspec.structs.replace(config.feedback, gpio=plain.feedback.gpio),
    )
    assert without_example == Config()


def test_the_sample_for_the_hub_loads_and_shows_every_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SHUAKA_HUB_{name.upper()}", raising=False)
    sample = ROOT / "deploy/hub/hub.toml"
    full = uncommented(sample, tmp_path / "hub.toml")
    defaults = dict(hub_settings())
    assert flat(tomllib.loads(full.read_text("utf-8"))).keys() == defaults.keys()
    for path in (sample, full):
        assert Settings.load(path).model_dump() == defaults


# --- commands -------------------------------------------------------------------------------------


def hub_commands() -> Iterator[tuple[str, list[str]]]:
    """Each command with its options."""

    def walk(words: list[str], command: Any) -> Iterator[tuple[str, list[str]]]:
        if not hasattr(command, "commands"):
            options = [name for each in command.params for name in each.opts if name[:1] == "-"]
            yield " ".join(words), options
            return
        for name, each in command.commands.items():
            yield from walk([*words, name], each)

    yield from walk(["shuaka-hub"], typer.main.get_command(hub_cli.app))


def edge_commands() -> Iterator[tuple[str, list[str]]]:
    parser = edge_cli._parser()
    (commands,) = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    for name, each in commands.choices.items():
        options = [option for action in each._actions for option in action.option_strings]
        whole = f"shuaka-edge {name}"
        for action in each._actions:
            for choice in action.choices or () if not action.option_strings else ():
                yield f"{whole} {choice}", []
        yield whole, options


@pytest.mark.parametrize(("command", "options"), [*hub_commands(), *edge_commands()])
def test_every_command_and_option_is_described(command: str, options: list[str]) -> None:
    assert re.search(rf"(?<![-\w]){re.escape(command)}\b", OPERATIONS)
    for option in options:
        if option not in {"-h", "--help"}:
            assert re.search(rf"(?<!\S|`){re.escape(option)}\b|`{re.escape(option)}\b", OPERATIONS)


def test_no_command_is_described_that_is_not_there() -> None:
    known = {command for command, _ in (*hub_commands(), *edge_commands())}
    known |= {command.rpartition(" ")[0] for command in known}
    for path in TEXTS:
        code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", path.read_text("utf-8"), re.DOTALL))
        for program, first, second in re.findall(
            r"(?:`|^|/bin/)(shuaka-(?:hub|edge)) ([a-z]+)(?: ([a-z]+))?", code, re.MULTILINE
        ):
            assert {f"{program} {first}", f"{program} {first} {second}"} & known, (
                f"{path.name}: {program} {first} {second}"
            )


# --- states, columns, policies --------------------------------------------------------------------


def door_words() -> Iterator[str]:
    yield from (ALREADY_RECOGNISED, ALREADY_UNKNOWN, OUT_OF_DATE)
    yield from (each.wording for each in DoorOutcome)
    yield from (each.wording for each in Standing)
    yield from (each.wording for each in Unreadable)


@pytest.mark.parametrize("words", sorted(set(door_words())))
def test_all_that_the_door_says_is_explained(words: str) -> None:
    assert words in section(OPERATIONS, "At the door")


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_of_refusal_is_explained(reason: Reason) -> None:
    assert f"`{reason}`" in section(OPERATIONS, "Of the hub")


def test_every_message_that_operations_explains_is_in_the_code() -> None:
    code = " ".join(re.sub(r'"\s*f?"', "", text) for text in sources().values())
    for title in ("Of the edge", "Of the hub"):
        for row in table(section(OPERATIONS, title)):
            for said in re.findall(r"`([^`]+)`", row[0]):
                for part in said.split(" … "):
                    words = re.sub(r"\(\d+\)| …$|: …", "", part).strip(" :")
                    words = words.replace("`", "")
                    assert words in code, f"{title}: {said!r}"


@pytest.mark.parametrize("register", list(Register))
def test_every_column_of_an_import_is_described(register: Register) -> None:
    told = {row[0].strip("`"): row[1] for row in table(section(OPERATIONS, register.value))}
    columns = COLUMNS[register]
    assert told.keys() == {*columns.required, *columns.optional}
    for name, words in told.items():
        assert (words == "optional") == (name in columns.optional), name


def test_every_policy_stands_in_the_rules_with_value_and_source(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'hub.db'}")
    migrate(engine)
    with reading(engine) as conn:
        p = schema.policies.c
        held = {f"`{name}`": row for name, *row in conn.execute(select(p.name, p.value, p.source))}
    engine.dispose()
    told = {row[0]: [row[1].strip("`"), row[3]] for row in table(section(RULES, "Policies"))}
    assert told == held


@pytest.mark.parametrize("term", [*terms.Verdict, *terms.Outcome, *Obstacle], ids=repr)
def test_every_verdict_outcome_and_obstacle_stands_in_the_rules(term: terms.Term) -> None:
    assert term.zh in RULES
    assert f"`{term.value}`" in RULES


@pytest.mark.parametrize(
    "words", [attendance.NOT_CONFIRMED, attendance.NOT_TOLD, attendance.NO_DEVICE]
)
def test_every_reason_for_pending_stands_in_the_rules(words: str) -> None:
    assert words in RULES


# --- names and links ------------------------------------------------------------------------------


def sources() -> dict[Path, str]:
    return {
        path: path.read_text("utf-8")
        for side in ("protocol", "edge", "hub")
        for path in (ROOT / side).rglob("*.py")
    }


def words_of_the_code() -> set[str]:
    return {word for text in sources().values() for word in re.findall(r"\w+", text)}


def test_every_identifier_of_the_glossary_exists_or_is_for_later() -> None:
    known = words_of_the_code()
    for row in table(GLOSSARY):
        is_later = row[-1] == "later"
        for identifier in re.findall(r"`([^`]+)`", "|".join(row)):
            assert re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", identifier), identifier
            exists = set(identifier.split(".")) <= known
            assert exists != is_later, f"{identifier}: {'exists' if exists else 'does not exist'}"


def test_every_term_stands_in_the_glossary_with_its_chinese() -> None:
    for kind in (
        terms.OrgKind,
        terms.Body,
        terms.MeetingKind,
        terms.Verdict,
        terms.Outcome,
        terms.CardStatus,
        terms.DeviceStatus,
        terms.Office,
        terms.Quorum,
        terms.QuorumRule,
        terms.DeclarationKind,
        terms.LeaveReason,
        terms.Evidence,
        terms.Role,
    ):
        for term in kind:
            (row,) = [
                each
                for each in table(GLOSSARY)
                if f"`{kind.__name__}.{term.value}`" in each[1] and term.zh in each[0]
            ]
            assert row


@EVERY_TEXT
def test_every_name_of_code_or_test_exists(path: Path) -> None:
    """In backticks: `package/module.py`, `test_something`, `package.module`."""
    text = path.read_text("utf-8")
    tests = {
        name
        for each in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *def (test_\w+)", each.read_text("utf-8"), re.MULTILINE)
    }
    for name in re.findall(r"`((?:protocol|edge|hub|tests|bin|deploy|docs|\.ci)/[\w./-]*)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(test_\w+)`", text):
        assert name in tests, name
    known = words_of_the_code()
    for name in re.findall(r"`((?:protocol|edge|hub)(?:\.\w+)+)`", text):
        if name not in {"edge.toml", "hub.toml", "hub.db", "edge.data"}:
            assert set(name.split(".")[1:]) <= known | {path.stem for path in sources()}, name


@EVERY_TEXT
def test_every_link_leads_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert not re.match(r"\w+:", target), f"{target}: a link out of the repository"
        name, _, anchor = target.partition("#")
        to = (path.parent / name).resolve() if name else path
        assert to.exists(), target
        assert to.is_relative_to(ROOT), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", to.read_text("utf-8"), re.MULTILINE)
            assert anchor in {
                re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles
            }, target


@EVERY_TEXT
def test_every_text_can_be_reached_from_the_readme(path: Path) -> None:
    reached: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        at = ahead.pop()
        if at in reached or at.suffix != ".md":
            continue
        reached.add(at)
        targets = re.findall(r"\]\(([^)#]+)", at.read_text("utf-8"))
        ahead.extend((at.parent / target).resolve() for target in targets)
    assert path in reached


@pytest.mark.parametrize("path", [*TEXTS, *SAMPLES], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_names_a_host_or_a_folder_of_somebodys_machine(path: Path) -> None:
    text = path.read_text("utf-8")
    hosts = re.findall(r"\b(?:https?|mqtts?)://([\w.-]+)", text)
    assert {
        host
        for host in hosts
        if not (host.endswith("example") or host in {"127.0.0.1", "HOST", "host"})
    } == set()
    assert re.findall(r"\b(?:[\w-]+\.)+(?:com|org|net|io|dev|cn)\b(?!\.)", text) in (
        [],
        ["org.debian.pcsc-lite.access_pcsc"],
    )
    assert re.findall(r"(?<![\w.])/(?:work|tmp|root|home|Users)\b\S*", text) == []


# --- the samples that are no settings of ours -----------------------------------------------------


@pytest.mark.servers
def test_mosquitto_takes_the_sample(tmp_path: Path) -> None:
    port = free_port()
    sample = (ROOT / "deploy/broker/mosquitto.conf").read_text("utf-8")
    text = sample.replace("listener 1883", f"listener {port} 127.0.0.1")
    assert text != sample
    own = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"{text}\nuser {own}", "utf-8")
    broker = Child(
        [find_program("mosquitto", "mosquitto"), "-c", config], log=tmp_path / "mosquitto.log"
    )
    try:
        broker.wait_until(lambda: accepts(port), "mosquitto")
    finally:
        broker.kill()
