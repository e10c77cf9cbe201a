"""What is written about the wire is what the code does."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from protocol import (
    batch,
    cbor,
    courierfile,
    credential,
    delivery,
    fleet,
    identity,
    journal,
    roster,
    sealing,
    topics,
)
from protocol.errors import Reason
from protocol.identity import MessageType
from tests.protocol.cddl import Array, Between, Schema, Size

DOCS = Path(__file__).parents[2] / "docs"
WIRE = (DOCS / "wire.md").read_text("utf-8")
ASYNCAPI: Any = yaml.safe_load((DOCS / "asyncapi.yaml").read_text("utf-8"))
SCHEMA = Schema((DOCS / "wire.cddl").read_text("utf-8"))
EDGE = bytes(range(16))

# --- wire.md --------------------------------------------------------------------------------------


def section(title: str) -> str:
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", WIRE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no section {title!r}"
    return found[1]


def rows(title: str) -> list[list[str]]:
    """The cells of the first table in a section, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_reason_is_explained_and_no_other() -> None:
    told = [row[0].strip("`") for row in rows("Why a message was not taken")]
    assert sorted(told) == sorted(Reason)


def test_every_message_is_explained_and_no_other() -> None:
    told = [row[0].strip("`") for row in rows("Signatures") if not row[0].isdigit()]
    assert [each for each in told if each in set(MessageType)] == list(MessageType)


def limits() -> Iterator[tuple[str, int]]:
    modules = [
        batch,
        cbor,
        courierfile,
        credential,
        delivery,
        fleet,
        identity,
        journal,
        roster,
        sealing,
    ]
    seen = set()
    for module in modules:
        for name, value in inspect.getmembers(module):
            limit = name.startswith("MAX_") or name in {"WINDOW", "COALESCE_MS", "RESEND_MS"}
            if limit and isinstance(value, int) and name not in seen | {"MAX_DETAIL_CHARS"}:
                seen.add(name)
                yield name, value


@pytest.mark.parametrize(("name", "value"), list(limits()), ids=str)
def test_every_limit_is_told_with_its_value(name: str, value: int) -> None:
    told = re.findall(rf"`{name}`: [^|]*\| (\d+) \|", WIRE)
    told += re.findall(rf"(\d+)(?: ms)?\s+\(`{name}`\)", WIRE)
    told += re.findall(rf"(\d+)\s+batches \(`{name}`\)", WIRE)
    assert told == [str(value)]


def test_there_are_limits() -> None:
    assert len(list(limits())) >= 14


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("Batch", "header first previous entries withheld subjects"),
        ("Hello", "header held"),
        ("Receipt", " ".join(each.name for each in fields(batch.Receipt))),
        ("Hub state", " ".join(each.name for each in fields(batch.HubState))),
        (
            "Heartbeat",
            (
                "epoch head digest boottime_ms wall_ms trusted released first_held unreceipted"
                " readers closing"
            ),
        ),
        (
            "Epoch header",
            (
                "edge epoch boot boottime_ms wall_ms trusted parent software hub_key"
                " wrapped_key rehearsal"
            ),
        ),
        ("Roster", "edge issued_ms sealed"),
        ("Hub keys", "number hub_sign hub_seal"),
        ("Order", "edge issued_ms command"),
        ("Certificate request", "edge nonce request"),
        ("Certificate", "edge nonce certificate authority"),
        ("Enrolment answer", "edge name edge_sign hub_sign hub_seal generation mqtt_url proof"),
    ],
)
def test_tables_of_fields_are_in_the_order_of_the_wire(title: str, names: str) -> None:
    wanted = [[str(at), name] for at, name in enumerate(names.split())]
    told = [row for row in rows(title) if row[0].isdigit()]
    if title == "Roster":
        told = told[: len(wanted)]  # its content has a table of its own
    assert [row[:2] for row in told] == wanted
    rule = SCHEMA.rules[title.lower().removesuffix(" answer").replace(" ", "-")]
    assert isinstance(rule, Array)
    assert len(rule.members) == len(wanted) + 1  # and whatever is appended


def test_every_kind_of_entry_is_told() -> None:
    kinds = {row[0]: row[1] for row in rows("Entries")}
    assert kinds == {
        str(journal.KIND_TAP): "tap",
        str(journal.KIND_ACTION): "action",
        str(journal.KIND_CLOCK): "clock sample",
        str(journal.KIND_READER_UP): "reader up",
        str(journal.KIND_READER_DOWN): "reader down",
    }


def test_every_act_is_told() -> None:
    told = {row[0]: row[1].split("`")[1] for row in rows("Acts")}
    assert told == {str(int(act)): act.name for act in journal.Act}


def test_the_topics_are_told() -> None:
    told = {row[0].strip("`") for row in rows("Transport")}
    assert told == {each.replace(EDGE.hex(), "<edge>") for each in all_topics()}
    assert f"`{topics.ALL_UP}`" in WIRE


def test_links_lead_somewhere() -> None:
    anchors = {
        re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", WIRE, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", WIRE):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        else:
            assert (DOCS / target).exists(), target


# --- wire.cddl ------------------------------------------------------------------------------------


def test_the_limits_in_cddl_are_those_of_the_code() -> None:
    def most(rule: str, at: int) -> int:
        array = SCHEMA.rules[rule]
        assert isinstance(array, Array)
        inner = array.members[at].value
        assert isinstance(inner, Array)
        return inner.members[0].most

    assert most("batch", 3) == most("batch", 4) == most("parcel", 1) == batch.MAX_ITEMS
    assert most("receipt", 5) == batch.MAX_RANGES
    assert most("hello", 1) == batch.MAX_HELD_EPOCHS
    assert most("heartbeat", 9) == batch.MAX_READERS
    sealed = SCHEMA.rules["sealed-subject"]
    assert isinstance(sealed, Size)
    assert sealed.size == Between(0, sealing.MAX_SEALED_BYTES)
    reader = SCHEMA.rules["reader"]
    assert isinstance(reader, Size)
    assert reader.size == Between(0, 4 * journal.MAX_READER_CHARS)


# --- asyncapi.yaml --------------------------------------------------------------------------------


def all_topics() -> list[str]:
    return [
        *(topics.up(EDGE, channel) for channel in topics.Up),
        topics.receipt(EDGE),
        topics.roster(EDGE),
        topics.keys(EDGE),
        topics.order(EDGE),
        topics.HUB_STATE,
    ]


def test_the_channels_are_the_topics() -> None:
    addresses = [each["address"] for each in ASYNCAPI["channels"].values()]
    assert sorted(addresses) == sorted(each.replace(EDGE.hex(), "{edge}") for each in all_topics())


def resolve(reference: str) -> Any:
    assert reference.startswith("#/"), reference
    found = ASYNCAPI
    for part in reference[2:].split("/"):
        assert part in found, reference
        found = found[part]
    return found


def references(value: Any) -> Iterator[str]:
    match value:
        case {"$ref": reference}:
            assert len(value) == 1, f"beside the reference {reference} nothing counts"
            yield reference
        case dict():
            for each in value.values():
                yield from references(each)
        case list():
            for each in value:
                yield from references(each)


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    used = set(references(ASYNCAPI))
    for reference in used:
        resolve(reference)
    for kind, parts in ASYNCAPI["components"].items():
        for name in parts:
            assert f"#/components/{kind}/{name}" in used, f"{kind}/{name} is never used"


def test_it_is_built_as_asyncapi_3_wants_it() -> None:
    """The fixed fields of AsyncAPI 3.0.0, as far as they are used here."""
    only(ASYNCAPI, {"asyncapi", "info", "servers", "channels", "operations", "components"},
         {"defaultContentType"})  # fmt: skip
    assert ASYNCAPI["asyncapi"] == "3.0.0"
    only(ASYNCAPI["info"], {"title", "version"}, {"description", "license"})
    for server in ASYNCAPI["servers"].values():
        only(server, {"host", "protocol"}, {"protocolVersion", "description", "variables"})
        for variable in re.findall(r"\{(\w+)\}", server["host"]):
            assert variable in server["variables"]
    for name, channel in ASYNCAPI["channels"].items():
        only(channel, {"address", "messages"}, {"description", "parameters"})
        inside = set(re.findall(r"\{(\w+)\}", channel["address"]))
        assert inside == set(channel.get("parameters", {})), name
    for name, operation in ASYNCAPI["operations"].items():
        only(operation, {"action", "channel"}, {"summary", "messages", "bindings"})
        assert operation["action"] in {"send", "receive"}
        channel = operation["channel"]["$ref"]
        assert channel.startswith("#/channels/"), name
        for message in operation["messages"]:
            assert message["$ref"].startswith(f"{channel}/messages/"), name
    served = {each["channel"]["$ref"] for each in ASYNCAPI["operations"].values()}
    assert served == {f"#/channels/{name}" for name in ASYNCAPI["channels"]}
    for message in ASYNCAPI["components"]["messages"].values():
        only(message, {"name", "payload"}, {"title", "contentType"})
    for binding in ASYNCAPI["components"]["operationBindings"].values():
        only(binding["mqtt"], {"qos", "retain", "bindingVersion"}, set())


def only(found: dict[str, Any], needed: set[str], allowed: set[str]) -> None:
    assert needed <= found.keys() <= needed | allowed


def test_quality_of_service_and_retain() -> None:
    for operation in ASYNCAPI["operations"].values():
        binding = resolve(operation["bindings"]["$ref"])["mqtt"]
        assert binding["qos"] == topics.QOS
        address = resolve(operation["channel"]["$ref"])["address"]
        assert binding["retain"] == (address == topics.HUB_STATE)
        assert operation["action"] == ("receive" if "/up/" in address else "send")


def test_the_messages_are_those_of_the_code_and_name_their_rules() -> None:
    messages = ASYNCAPI["components"]["messages"].values()
    assert {each["name"] for each in messages} == set(MessageType) - {
        MessageType.ENROLMENT,
        MessageType.CERTIFICATE_REQUEST,
        MessageType.CERTIFICATE,
    }
    for message in messages:
        rule = resolve(message["payload"]["$ref"])["x-cddl"]
        assert rule in SCHEMA.rules
        assert rule == ("parcel" if message["name"] == "batch" else f"signed-{message['name']}")
