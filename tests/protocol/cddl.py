"""As much of CDDL (RFC 8610) as docs/wire.cddl uses: does a decoded value obey a rule?

pycddl reads that file too (tests/protocol/test_docs.py), and so vouches for its syntax. It does not
validate with it: version 0.6 takes `.cbor` of one array element for all of them, counts `* any`
as an element that must be there, and dies of a segmentation fault on some of the vectors.

Not here: generics, groups by name, sockets, cuts, and every control operator but .size and .cbor.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cbor2

TOKEN = re.compile(
    r"""(?:\s|;[^\n]*)*(?:
        (?P<text>"[^"]*")
      | (?P<number>-?\d+)
      | (?P<name>[A-Za-z_][\w-]*)
      | (?P<sign>=>|\.\.|\.size\b|\.cbor\b|[][{}(),:=/*?+])
      | (?P<end>\Z)
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Name:
    name: str


@dataclass(frozen=True)
class Literal:
    value: int | str


@dataclass(frozen=True)
class Between:
    least: int
    most: int


@dataclass(frozen=True)
class Size:
    of: "Type"
    size: "Type"


@dataclass(frozen=True)
class Embedded:
    """A byte string that holds one encoded value."""

    rule: "Type"


@dataclass(frozen=True)
class Choice:
    options: "Sequence[Type]"


@dataclass(frozen=True)
class Member:
    least: int
    most: int
    key: "Type | None"
    value: "Type"


@dataclass(frozen=True)
class Array:
    members: Sequence[Member]


@dataclass(frozen=True)
class Map:
    members: Sequence[Member]


Type = Name | Literal | Between | Size | Embedded | Choice | Array | Map
MANY = 1 << 30


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while not self._tokens or self._tokens[-1][0] != "end":
            match = TOKEN.match(text, at)
            if match is None or match.lastgroup is None:
                raise ValueError(f"not CDDL as it is used here: {text[at : at + 60]!r}")
            self._tokens.append((match.lastgroup, match[match.lastgroup]))
            at = match.end()
        self._at = 0

    def rules(self) -> dict[str, Type]:
        rules: dict[str, Type] = {}
        while self._peek()[0] != "end":
            name = self._take("name")
            self._take("sign", "=")
            if name in rules:
                raise ValueError(f"{name} is defined twice")
            rules[name] = self._type()
        return rules

    def _peek(self, ahead: int = 0) -> tuple[str, str]:
        return self._tokens[min(self._at + ahead, len(self._tokens) - 1)]

    def _take(self, kind: str, token: str | None = None) -> str:
        found = self._peek()
        if found[0] != kind or (token is not None and found[1] != token):
            raise ValueError(f"{found[1]!r} where {token or kind} belongs")
        self._at += 1
        return found[1]

    def _takes(self, token: str) -> bool:
        if self._peek() == ("sign", token):
            self._at += 1
            return True
        return False

    def _type(self) -> Type:
        options = [self._operated()]
        while self._takes("/"):
            options.append(self._operated())
        return options[0] if len(options) == 1 else Choice(options)

    def _operated(self) -> Type:
        first = self._simple()
        if self._takes(".."):
            last = self._simple()
            assert isinstance(first, Literal)
            assert isinstance(last, Literal)
            return Between(int(first.value), int(last.value))
        if self._takes(".size"):
            return Size(first, self._simple())
        if self._takes(".cbor"):
            assert first == Name("bstr")
            return Embedded(self._simple())
        return first

    def _simple(self) -> Type:
        kind, token = self._peek()
        self._at += 1
        match kind, token:
            case "text", _:
                return Literal(token[1:-1])
            case "number", _:
                return Literal(int(token))
            case "name", _:
                return Name(token)
            case "sign", "(":
                inner = self._type()
                self._take("sign", ")")
                return inner
            case "sign", "[":
                return Array(self._members("]"))
            case "sign", "{":
                return Map(self._members("}"))
        raise ValueError(f"{token!r} begins no type")

    def _members(self, end: str) -> list[Member]:
        members = []
        while not self._takes(end):
            least, most = self._occurrence()
            key: Type | None = None
            if self._peek()[0] == "name" and self._peek(1) == ("sign", ":"):
                self._at += 2  # a name for the reader alone
            value = self._type()
            if self._takes("=>"):
                key, value = value, self._type()
            members.append(Member(least, most, key, value))
            self._takes(",")
        return members

    def _occurrence(self) -> tuple[int, int]:
        if self._takes("?"):
            return 0, 1
        if self._takes("+"):
            return 1, MANY
        least = 0
        if self._peek()[0] == "number" and self._peek(1) == ("sign", "*"):
            least = int(self._take("number"))
        if self._takes("*"):
            return least, int(self._take("number")) if self._peek()[0] == "number" else MANY
        return 1, 1


PRELUDE = {"any": object, "bstr": bytes, "tstr": str, "bool": bool, "null": type(None)}


class Schema:
    def __init__(self, text: str) -> None:
        self.rules: Mapping[str, Type] = _Parser(text).rules()
        for name in self._used(self.rules.values()):
            if name not in self.rules and name not in PRELUDE:
                raise ValueError(f"{name} is used and nowhere defined")

    def obeys(self, rule: str, value: Any) -> bool:
        return self._matches(self.rules[rule], value)

    def unused(self) -> set[str]:
        return self.rules.keys() - self._used(self.rules.values())

    def _used(self, types: Any) -> set[str]:
        found: set[str] = set()
        for each in types:
            match each:
                case Name(name):
                    found.add(name)
                case Size(of, size):
                    found |= self._used([of, size])
                case Embedded(rule):
                    found |= self._used([rule])
                case Choice(options):
                    found |= self._used(options)
                case Array(members) | Map(members):
                    found |= self._used([m.value for m in members])
                    found |= self._used([m.key for m in members if m.key is not None])
        return found

    def _matches(self, rule: Type, value: Any) -> bool:
        match rule:
            case Name(name) if name in self.rules:
                return self._matches(self.rules[name], value)
            case Name("any"):
                return True
            case Name(name):
                return type(value) is PRELUDE[name]
            case Literal(literal):
                return type(value) is type(literal) and value == literal
            case Between(least, most):
                return type(value) is int and least <= value <= most
            case Size(of, size):
                if not self._matches(of, value):
                    return False
                length = len(value.encode() if isinstance(value, str) else value)
                return self._matches(size, length)
            case Embedded(inner):
                return type(value) is bytes and self._matches(inner, cbor2.loads(value))
            case Choice(options):
                return any(self._matches(each, value) for each in options)
            case Array(members):
                return type(value) is list and self._sequence(members, value)
            case Map(members):
                return type(value) is dict and self._map(members, value)

    def _sequence(self, members: Sequence[Member], values: Sequence[Any]) -> bool:
        if not members:
            return not values
        member, rest = members[0], members[1:]
        taken = 0
        while taken < min(member.most, len(values)) and self._matches(member.value, values[taken]):
            taken += 1
        return any(
            self._sequence(rest, values[count:]) for count in range(taken, member.least - 1, -1)
        )

    def _map(self, members: Sequence[Member], value: Mapping[Any, Any]) -> bool:
        left = dict(value)
        for member in members:
            assert member.key is not None
            found = [
                key
                for key, each in left.items()
                if self._matches(member.key, key) and self._matches(member.value, each)
            ]
            if len(found) < member.least:
                return False
            for key in found[: member.most]:
                del left[key]
        return not left
