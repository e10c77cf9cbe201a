"""What people stated of a meeting, and what that and the taps come to for each member: pure.

Promises: the answer depends on what was stated, not on the order it is given in; a withdrawn
declaration counts for nothing, nor does an answer to it; a tap that counts is never outweighed by
a statement. Whether somebody may state a thing was decided when it was stated, except at a reader:
there `ActionTaken.speaks` tells it.

Nobody is called absent here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from hub.domain.attendance import CheckIn, Meeting, TapKey, verdict
from hub.domain.terms import DeclarationKind, Verdict
from protocol.journal import Act


@dataclass(frozen=True, slots=True)
class Declaration:
    """A statement by a person, as it was made."""

    id: int
    kind: DeclarationKind
    made_ms: int
    member_id: int | None = None
    about_id: int | None = None
    """The declaration that it answers or withdraws."""
    number: int | None = None
    """A head-count."""
    key: TapKey | None = None
    """The entry that a TAP_ASSIGNED speaks of; of a WITHDRAWN, the act that it takes back."""


@dataclass(frozen=True, slots=True)
class ActionTaken:
    """An act at the meeting's reader, authorised by a card."""

    key: TapKey
    what: Act
    at_ms: int
    speaks: bool
    """Whether the card's holder may speak for the meeting."""
    number: int | None = None
    about_member_id: int | None = None


@dataclass(frozen=True, slots=True)
class AssignedTap:
    """What is known of a tap that somebody assigned to the meeting."""

    member_id: int
    at_ms: int | None
    counts: bool = False
    """Whether it counts for the meeting by itself too: it is among the member's check-in then."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What stands of all that was stated of one meeting."""

    held: bool | None
    """None: nobody has said."""
    head_count: int | None
    sheet_complete: bool
    """Whether a signed paper sheet was declared to hold everybody who came."""
    marks: Mapping[int, "Mark"]
    """By member: the strongest thing that was stated of each."""
    assigned: Mapping[TapKey, int]
    """Entries that were assigned to the meeting, with the declarations that did it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A statement of one member: a verdict and its evidence."""

    verdict: Verdict
    declaration_id: int | None = None
    key: TapKey | None = None
    at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Attendance:
    """What is concluded of one member at one meeting, and the evidence that decides."""

    meeting_id: int
    member_id: int
    verdict: Verdict
    at_ms: int | None
    key: TapKey | None
    declaration_id: int | None
    taps: int


_STRENGTH: Final = (
    DeclarationKind.SHEET,
    DeclarationKind.WITNESSED,
    DeclarationKind.BACK_FILL_GRANTED,
    DeclarationKind.LEAVE_GRANTED,
)
_VERDICTS: Final = {
    DeclarationKind.SHEET: Verdict.PRESENT,
    DeclarationKind.WITNESSED: Verdict.WITNESSED,
    DeclarationKind.BACK_FILL_GRANTED: Verdict.BACK_FILLED,
    DeclarationKind.LEAVE_GRANTED: Verdict.EXCUSED,
}
CAME: Final = frozenset({Verdict.PRESENT, Verdict.LATE, Verdict.WITNESSED, Verdict.BACK_FILLED})
"""实到: the verdicts of the expected that say that a member took part."""


def standing(declarations: Iterable[Declaration]) -> list[Declaration]:
    """Those that were not withdrawn, in the order in which they were made.

    An answer falls with what it answers.
    """
    ordered = sorted({each.id: each for each in declarations}.values(), key=_when)
    gone = {each.about_id for each in ordered if each.kind is DeclarationKind.WITHDRAWN}
    gone |= {each.id for each in ordered if each.about_id is not None and each.about_id in gone}
    return [
        each
        for each in ordered
        if each.id not in gone and each.kind is not DeclarationKind.WITHDRAWN
    ]


def acts_withdrawn(declarations: Iterable[Declaration]) -> frozenset[TapKey]:
    """The acts at readers that somebody took back, of the declarations of one meeting."""
    return frozenset(
        each.key
        for each in declarations
        if each.kind is DeclarationKind.WITHDRAWN and each.key is not None
    )


def fold(declarations: Iterable[Declaration], actions: Iterable[ActionTaken] = ()) -> Stated:
    """What stands of the declarations and acts of one meeting."""
    held: tuple[tuple[int, int], bool] | None = None
    head_count: tuple[tuple[int, int], int] | None = None
    sheet_complete = False
    marks: dict[int, tuple[int, Mark]] = {}
    assigned: dict[TapKey, int] = {}
    answers: dict[int, Declaration] = {}
    said = list(declarations)
    kept, gone = standing(said), acts_withdrawn(said)
    for each in kept:
        match each.kind:
            case DeclarationKind.HELD | DeclarationKind.NOT_HELD:
                held = (_when(each), each.kind is DeclarationKind.HELD)
            case DeclarationKind.HEAD_COUNT:
                head_count = (_when(each), each.number or 0)
            case DeclarationKind.SHEET_COMPLETE:
                sheet_complete = True
            case DeclarationKind.TAP_ASSIGNED:
                if each.key is not None:
                    assigned.setdefault(each.key, each.id)
            case (
                DeclarationKind.LEAVE_GRANTED
                | DeclarationKind.LEAVE_REFUSED
                | DeclarationKind.BACK_FILL_GRANTED
                | DeclarationKind.BACK_FILL_REFUSED
            ):
                # Of several answers to one question the last one holds.
                if each.about_id is not None:
                    answers[each.about_id] = each
            case _:
                pass
    marking = [
        each for each in kept if each.kind in {DeclarationKind.SHEET, DeclarationKind.WITNESSED}
    ]
    marking += [each for each in answers.values() if each.kind in _VERDICTS]
    for each in marking:
        if each.member_id is not None:
            strength = _STRENGTH.index(each.kind)
            mark = Mark(_VERDICTS[each.kind], declaration_id=each.id)
            if each.member_id not in marks or strength < marks[each.member_id][0]:
                marks[each.member_id] = (strength, mark)
    for act in sorted(actions, key=lambda act: (act.at_ms, act.key)):
        if not act.speaks or act.key in gone:
            continue
        when = (act.at_ms, 0)
        match act.what:
            case Act.OPENED | Act.CLOSED:
                if held is None or held[0] < when:
                    held = (when, True)
            case Act.HEAD_COUNT:
                if act.number is not None and (head_count is None or head_count[0] < when):
                    head_count = (when, act.number)
            case Act.WITNESSED:
                member_id = act.about_member_id
                strength = _STRENGTH.index(DeclarationKind.WITNESSED)
                if member_id is not None and (
                    member_id not in marks or strength < marks[member_id][0]
                ):
                    mark = Mark(Verdict.WITNESSED, key=act.key, at_ms=act.at_ms)
                    marks[member_id] = (strength, mark)
    return Stated(
        None if held is None else held[1],
        None if head_count is None else head_count[1],
        # A sheet that nobody signed says nothing.
        sheet_complete and any(each.kind is DeclarationKind.SHEET for each in kept),
        {member_id: mark for member_id, (_, mark) in marks.items()},
        assigned,
    )


def conclude(
    meeting: Meeting,
    check_ins: Mapping[int, CheckIn],
    stated: Stated,
    assigned: Mapping[TapKey, AssignedTap],
) -> dict[int, Attendance]:
    """By member: what the meeting's check-ins and what was stated come to.

    `check_ins` are those of this meeting, by member; `assigned` tells of the entries that
    `stated.assigned` names, as far as anything is known of them. Of members of whom nothing is
    known there is nothing.
    """
    found: dict[int, Attendance] = {}
    for member_id, mark in stated.marks.items():
        is_expected = member_id in meeting.expected
        if not is_expected and mark.verdict not in {Verdict.PRESENT, Verdict.WITNESSED}:
            continue
        said = mark.verdict if is_expected else Verdict.GUEST
        found[member_id] = Attendance(
            meeting.id, member_id, said, mark.at_ms, mark.key, mark.declaration_id, 0
        )
    shown: dict[int, list[tuple[int | None, TapKey, int | None, int]]] = {
        member_id: [(each.at_ms, each.key, None, each.taps)]
        for member_id, each in check_ins.items()
    }
    for key, declaration_id in stated.assigned.items():
        tap = assigned.get(key)
        if tap is not None and not (tap.counts and tap.member_id in check_ins):
            shown.setdefault(tap.member_id, []).append((tap.at_ms, key, declaration_id, 1))
    for member_id, taps in shown.items():
        # The earliest decides; one whose time is not known only where there is no other.
        at_ms, key, decided_by, _ = min(
            taps, key=lambda each: (each[0] is None, each[0] or 0, each[1])
        )
        if at_ms is not None:
            said = verdict(meeting, member_id, at_ms)
        else:
            # Nobody is late by a clock that is not known.
            said = Verdict.PRESENT if member_id in meeting.expected else Verdict.GUEST
        found[member_id] = Attendance(
            meeting.id, member_id, said, at_ms, key, decided_by, sum(each[3] for each in taps)
        )
    return found


def _when(each: Declaration) -> tuple[int, int]:
    return each.made_ms, each.id
