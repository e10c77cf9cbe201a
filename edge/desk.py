"""What a desk station (发卡台) asks of the hub, and what it is told; see `edge.issue`.

Everything that is asked may be asked again: nothing is done twice. What the hub says is shown
within one line, of a card the last characters. A token is taken only from a file that nobody else
may read.
"""

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec

from edge.request import HubAddress, NoAnswerError, ask, plain
from protocol.credential import Credential

MAX_TOKEN_BYTES: Final = 256
PAGE: Final = 100

STATES: Final = {
    "UNKNOWN": "未登记 UNKNOWN",
    "BOUND": "已登记 BOUND",
    "LOST": "已挂失 LOST",
    "ENDED": "已停用 ENDED",
    "ELSEWHERE": "登记在其他组织 ELSEWHERE",
}
T = TypeVar("T")


class IssueError(Exception):
    """Why the station does not work, and what to do."""


def read_token(path: Path) -> str:
    """The token in a file that nobody else may read. Raises IssueError."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise IssueError(f"{path}: is no file")
            if stat.S_IMODE(mode) & 0o077:
                raise IssueError(
                    f"{path}: others may read or write the token (mode {stat.S_IMODE(mode):04o}):"
                    f" chmod 600 {path}"
                )
            raw = file.read(MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise IssueError(f"{path}: {error.strerror}") from error
    token = raw.decode("ascii", "replace").strip()
    if not re.fullmatch(r"[A-Za-z0-9_-]{8,}", token) or len(raw) > MAX_TOKEN_BYTES:
        raise IssueError(f"{path}: holds no token, which is one line such as shk_…")
    return token


class Member(msgspec.Struct, frozen=True):
    """Somebody of the sub-tree."""

    public_id: str
    code: str
    name: str
    branch: str | None = None

    def __str__(self) -> str:
        branch = f", {plain(self.branch)}" if self.branch else ""
        return f"{plain(self.name)} {plain(self.code)}{branch}"


class Holder(msgspec.Struct, frozen=True):
    """Whose card it is, as far as the token may know."""

    public_id: str | None
    code: str | None
    name: str | None

    def __str__(self) -> str:
        return plain(f"{self.name or ''} {self.code or ''}") or "somebody"


class Reading(msgspec.Struct, frozen=True):
    """What the hub says of a card that was read."""

    public_id: str
    card_last: str
    state: str
    holder: Holder | None = None
    since: str | None = None

    @property
    def tail(self) -> str:
        """The card, as it is shown."""
        return f"…{plain(self.card_last)}"

    @property
    def is_free(self) -> bool:
        """Whether it may become somebody's."""
        return self.state in {"UNKNOWN", "ENDED"}

    def __str__(self) -> str:
        words = f"Card {self.tail}: {STATES.get(self.state, plain(self.state))}"
        if self.holder is not None:
            words += f", {'formerly ' if self.state == 'ENDED' else ''}{self.holder}"
        if self.since is not None:
            words += f"; its taps since {plain(self.since[:16].replace('T', ' '))} will count"
        return words


class Card(msgspec.Struct, frozen=True):
    """A card of a member."""

    public_id: str
    status: str
    numbers_last: tuple[str, ...]
    valid_to: str | None
    is_last: bool

    @property
    def is_used(self) -> bool:
        return self.status == "ACTIVE" and self.valid_to is None and self.is_last

    def __str__(self) -> str:
        return plain(", ".join(f"…{each}" for each in self.numbers_last)) or "without a number"


class _Members(msgspec.Struct, frozen=True):
    total: int
    items: tuple[Member, ...]


class _Cards(msgspec.Struct, frozen=True):
    items: tuple[Card, ...]


class Desk:
    """What a station asks of the hub; everything raises RequestError."""

    def __init__(self, hub: HubAddress, token: str) -> None:
        self.hub = hub
        self._token = token

    def read(self, card: Credential) -> Reading:
        """The station's reader has read a card."""
        said: dict[str, object] = {
            "scheme": card.scheme,
            "issuer": card.issuer,
            "value": card.value,
        }
        return self._get(Reading, "POST", "/api/v1/desk/readings", said)

    def bind(self, reading: Reading, member: Member, old: Card | None, *, is_lost: bool) -> None:
        """The card that was read is the member's, in place of an old one or not."""
        body: dict[str, object] = {"member": member.public_id}
        if old is not None:
            body |= {"card": old.public_id, "lost": is_lost}
        what = "bind" if old is None else "replace"
        self._get(Card, "POST", f"/api/v1/desk/readings/{_id(reading.public_id)}/{what}", body)

    def undo(self, reading: str) -> object:
        """What became of a reading is taken back."""
        return self._ask("POST", f"/api/v1/desk/readings/{_id(reading)}/undo")

    def report_lost(self, card: Card) -> object:
        """A card is lost, from now on."""
        return self._ask("POST", f"/api/v1/cards/{_id(card.public_id)}/lost", {})

    def cards(self, member: Member) -> list[Card]:
        """The cards that a member uses."""
        path = f"/api/v1/members/{_id(member.public_id)}/cards"
        return [each for each in self._get(_Cards, "GET", path).items if each.is_used]

    def members(self, text: str, limit: int, offset: int = 0) -> tuple[Sequence[Member], int]:
        """Some of those whom the text fits, by code; and how many they are."""
        query: dict[str, object] = {"search": text[:100], "limit": limit, "offset": offset}
        found = self._get(_Members, "GET", "/api/v1/members", query=query)
        return found.items, found.total

    def member(self, code: str) -> Member | None:
        """Who has this code."""
        offset = 0
        while True:
            found, total = self.members(code, PAGE, offset)
            for each in found:
                if each.code == code:
                    return each
            offset += PAGE
            if offset >= total or not found:
                return None

    def _get(
        self,
        kind: type[T],
        method: str,
        path: str,
        body: dict[str, object] | None = None,
        query: dict[str, object] | None = None,
    ) -> T:
        try:
            return msgspec.convert(self._ask(method, path, body, query), kind)
        except msgspec.ValidationError as error:
            raise NoAnswerError(f"{self.hub} did not answer as a hub does") from error

    def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, object] | None = None,
        query: dict[str, object] | None = None,
    ) -> dict[str, object]:
        return ask(self.hub, method, path, body, query=query, token=self._token)


def _id(name: str) -> str:
    return quote(name, safe="")
