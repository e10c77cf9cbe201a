"""A list of members who are to have a card each, and how far it has come; see `edge.issue`.

All of it is looked through before it begins. How far it has come is kept beside it, whole and
durable, and holds no card number; of two at work on one list, the later writes over the other.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import msgspec

from edge.desk import Desk, IssueError, Member, Reading
from edge.request import RequestError, plain
from edge.wholefile import write

MAX_LIST: Final = 2000
MAX_LIST_BYTES: Final = 1 << 20
PROGRESS: Final = ".progress.json"

HEADS: Final = frozenset({"code", "member", "member_code", "编号", "党员编号", "党员"})
"""What the first line of a list may be, if it is no member's code."""


def read_list(path: Path) -> list[str]:
    """The members' codes in the first column of a CSV file. Raises IssueError with every problem.

    UTF-8 or GB 18030, as spreadsheets write it; a first line that is a heading is left out.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_LIST_BYTES + 1)
    except OSError as error:
        raise IssueError(f"{path}: {error.strerror}") from error
    if len(raw) > MAX_LIST_BYTES:
        raise IssueError(f"{path}: is larger than {MAX_LIST_BYTES >> 10} KiB")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            text = raw.decode("gb18030")
        except UnicodeDecodeError:
            raise IssueError(f"{path}: is text neither in UTF-8 nor in GB 18030") from None
    try:
        rows = [
            (row[0].strip() if row else "") for row in csv.reader(io.StringIO(text), strict=True)
        ]
    except csv.Error as error:
        raise IssueError(f"{path}: is no CSV: {error}") from error
    lines: dict[str, int] = {}
    problems = []
    for number, code in enumerate(rows, 1):
        if not code or (number == 1 and code.casefold() in HEADS):
            continue
        if code in lines:
            problems.append(f"line {number}: {plain(code)} stands in line {lines[code]} already")
        lines.setdefault(code, number)
    if not lines:
        raise IssueError(f"{path}: names no member")
    if len(lines) > MAX_LIST:
        raise IssueError(f"{path}: names more than {MAX_LIST} members")
    _none(path, problems)
    return list(lines)


def _none(path: Path, problems: Sequence[str]) -> None:
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise IssueError(f"{path}: nothing was begun: {'; '.join(problems[:10])}{more}")


class Done(msgspec.Struct, frozen=True):
    """Somebody who has a card."""

    code: str
    reading: str | None
    """None: the card was the member's before."""
    tail: str


class _ProgressFile(msgspec.Struct, forbid_unknown_fields=True):
    hub: str
    done: list[Done]


@dataclass
class Batch:
    """A list of members, and those who have their card. The file beside it holds no card number."""

    path: Path
    hub: str
    members: list[Member]
    done: list[Done] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, desk: Desk) -> Self:
        """The list as far as it has come, all of it known to the hub. Raises IssueError."""
        codes = read_list(path)
        members, problems = [], []
        try:
            for code in codes:
                found = desk.member(code)
                if found is None:
                    problems.append(f"the hub knows no {plain(code)} in this token's sub-tree")
                else:
                    members.append(found)
        except RequestError as error:
            raise IssueError(f"{path}: nothing was begun: {error}") from error
        _none(path, problems)
        batch = cls(path, str(desk.hub), members)
        batch._resume()
        return batch

    @property
    def waiting(self) -> list[Member]:
        """Those who have no card yet, in the list's order."""
        known = {each.code for each in self.done}
        return [each for each in self.members if each.code not in known]

    @property
    def said(self) -> str:
        """How far it has come."""
        return f"{len(self.members) - len(self.waiting)}/{len(self.members)}"

    def add(self, member: Member, reading: Reading, *, is_new: bool) -> None:
        """The member has a card. Raises IssueError."""
        name = reading.public_id if is_new else None
        self.done.append(Done(member.code, name, reading.tail))
        self._save()

    def take_back(self) -> None:
        """The last has none. Raises IssueError."""
        self.done.pop()
        self._save()

    @property
    def _file(self) -> Path:
        return self.path.with_name(self.path.name + PROGRESS)

    def _resume(self) -> None:
        try:
            kept = msgspec.json.decode(self._file.read_bytes(), type=_ProgressFile)
        except FileNotFoundError:
            return
        except OSError as error:
            raise IssueError(f"{self._file}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise IssueError(
                f"{self._file}: is no progress of a list; move it away to begin anew"
            ) from error
        if kept.hub != self.hub:
            raise IssueError(
                f"{self._file}: is of {plain(kept.hub)}; move it away to begin anew here"
            )
        self.done = kept.done

    def _save(self) -> None:
        """Whole or not at all, and durable."""
        try:
            write(self._file, msgspec.json.encode(_ProgressFile(self.hub, self.done)))
        except OSError as error:
            raise IssueError(
                f"{self._file}: {error.strerror}: how far the list has come is not kept; what was"
                " bound is, and a card that is the member's already counts when it is read again"
            ) from error
