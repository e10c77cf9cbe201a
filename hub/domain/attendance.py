"""Who was expected, which meeting a tap belongs to, and what is said of each member of a meeting.

Promises: every answer depends on the facts alone, not on their order or on how often they were
told; nobody is called absent; a tap whose time is not known exactly decides nothing. It knows no
leave, no corrections and no 无故缺席 yet.

Times are ms since the Unix epoch, UTC; `now_ms` is always an argument.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, assert_never
from zoneinfo import ZoneInfo

from hub.domain.completeness import Completeness
from hub.domain.terms import Body, MeetingKind, Outcome, Quorum, QuorumRule, Verdict
from hub.domain.words import Words

MINUTE_MS: Final = 60_000
DAY_MS: Final = 24 * 60 * MINUTE_MS


@dataclass(frozen=True, slots=True)
class Validity:
    """The half-open time `[from_ms, to_ms)`; `to_ms` None: until further notice."""

    from_ms: int
    to_ms: int | None

    def __post_init__(self) -> None:
        if self.to_ms is not None and self.to_ms <= self.from_ms:
            raise ValueError(f"ends at {self.to_ms}, not after its start {self.from_ms}")

    def holds(self, at_ms: int) -> bool:
        """Whether `at_ms` lies within it."""
        return self.from_ms <= at_ms and (self.to_ms is None or at_ms < self.to_ms)

    def overlaps(self, other: "Validity") -> bool:
        """Whether some moment lies within both."""
        return (self.to_ms is None or other.from_ms < self.to_ms) and (
            other.to_ms is None or self.from_ms < other.to_ms
        )


@dataclass(frozen=True, slots=True)
class Membership:
    """A member's place in an organisation or in its committee."""

    member_id: int
    organisation_id: int
    body: Body
    validity: Validity


@dataclass(frozen=True, slots=True)
class Meeting:
    """A meeting that is held (not cancelled), with whoever is expected at it."""

    id: int
    venue_id: int
    opens_ms: int
    starts_ms: int
    ends_ms: int
    grace_minutes: int
    expected: frozenset[int]
    """Member ids."""

    def __post_init__(self) -> None:
        if not self.opens_ms <= self.starts_ms < self.ends_ms:
            raise ValueError(f"meeting {self.id}: opens, starts and ends out of order")
        if self.grace_minutes < 0:
            raise ValueError(f"meeting {self.id}: a grace below zero")

    def is_open(self, at_ms: int) -> bool:
        """Whether a tap at `at_ms` falls into the check-in window, both ends included."""
        return self.opens_ms <= at_ms <= self.ends_ms

    def is_late(self, at_ms: int) -> bool:
        """Whether a member who came at `at_ms` came after the start and the grace."""
        return at_ms > self.starts_ms + self.grace_minutes * MINUTE_MS


@dataclass(frozen=True, slots=True, order=True)
class TapKey:
    """The entry that the tap is: (epoch's id, seq)."""

    epoch_id: int
    seq: int


@dataclass(frozen=True, slots=True)
class Tap:
    """A tap with all that is known of it."""

    key: TapKey
    at_ms: int | None
    """Its corrected time; None where only an interval is known."""
    venue_id: int | None
    """Where its device stood at that time; None: nowhere."""
    member_id: int | None
    """To whom the card was bound at that time; None: to nobody."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What became of a tap: the outcome, and the meetings in which it shows its member."""

    outcome: Outcome
    meetings: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckIn:
    """A member shown at a meeting by at least one tap: PRESENT, LATE or GUEST."""

    meeting_id: int
    member_id: int
    verdict: Verdict
    at_ms: int
    """Of the earliest tap."""
    key: TapKey
    """The earliest tap (of several at the same ms, the one with the lowest key)."""
    taps: int
    """How many taps say the same."""


def expected_body(kind: MeetingKind) -> Body:
    """Which body of the organisation a meeting of this kind expects."""
    match kind:
        case MeetingKind.BRANCH_COMMITTEE:
            return Body.COMMITTEE
        case (
            MeetingKind.BRANCH_ASSEMBLY
            | MeetingKind.PARTY_GROUP
            | MeetingKind.PARTY_LECTURE
            | MeetingKind.THEME_PARTY_DAY
        ):
            return Body.MEMBER
        case _:
            assert_never(kind)


def expected(
    organisation_id: int, kind: MeetingKind, starts_ms: int, memberships: Iterable[Membership]
) -> frozenset[int]:
    """应到: the members who hold the right place in the meeting's own organisation at its start.

    Source: 支部工作条例（试行）2018: 党员大会, 党课 and 主题党日 expect all members of the branch,
    支委会 its committee, 党小组会 the group. Only places in that very organisation count: a
    lecture of a party committee expects those who belong to the committee directly, not all
    members of the branches below it.
    """
    body = expected_body(kind)
    return frozenset(
        each.member_id
        for each in memberships
        if each.organisation_id == organisation_id
        and each.body is body
        and each.validity.holds(starts_ms)
    )


class Calendar:
    """Meetings by venue, to be asked which of them are open at a moment."""

    def __init__(self, meetings: Iterable[Meeting]) -> None:
        """Of several meetings with one id, which never differ, one is kept."""
        self._by_id = {each.id: each for each in meetings}
        self._by_venue: dict[int, list[Meeting]] = {}
        self._opens_ms: dict[int, list[int]] = {}
        self._longest_ms: dict[int, int] = {}
        for each in sorted(self._by_id.values(), key=lambda each: (each.opens_ms, each.id)):
            self._by_venue.setdefault(each.venue_id, []).append(each)
            self._opens_ms.setdefault(each.venue_id, []).append(each.opens_ms)
            self._longest_ms[each.venue_id] = max(
                self._longest_ms.get(each.venue_id, 0), each.ends_ms - each.opens_ms
            )

    def __contains__(self, meeting_id: int) -> bool:
        """Whether the meeting is here."""
        return meeting_id in self._by_id

    def meeting(self, meeting_id: int) -> Meeting:
        """The meeting with this id; KeyError where it is not here."""
        return self._by_id[meeting_id]

    def open_at(self, venue_id: int, at_ms: int) -> list[Meeting]:
        """The meetings at the venue whose window holds `at_ms`, in the order of opening."""
        here = self._by_venue.get(venue_id)
        if here is None:
            return []
        opens_ms = self._opens_ms[venue_id]
        first = bisect_left(opens_ms, at_ms - self._longest_ms[venue_id])
        last = bisect_right(opens_ms, at_ms)
        return [each for each in here[first:last] if each.is_open(at_ms)]


def read(tap: Tap, calendar: Calendar) -> Reading:
    """Which of the calendar's meetings the tap belongs to.

    It counts for every meeting at its venue that is open at its time and expects its member; else
    its member is a guest, when exactly one meeting is open there; else an operator decides. A tap
    without an exact time is left UNDATED even if its interval allows one answer only.
    """
    if tap.at_ms is None:
        return Reading(Outcome.UNDATED)
    if tap.member_id is None:
        return Reading(Outcome.UNMATCHED)
    if tap.venue_id is None:
        return Reading(Outcome.UNPLACED)
    is_open = calendar.open_at(tap.venue_id, tap.at_ms)
    expecting = sorted(each.id for each in is_open if tap.member_id in each.expected)
    if expecting:
        return Reading(Outcome.COUNTED, tuple(expecting))
    if len(is_open) == 1:
        return Reading(Outcome.GUEST, (is_open[0].id,))
    return Reading(Outcome.UNPLACED)


def check_ins(taps: Iterable[Tap], calendar: Calendar) -> dict[tuple[int, int], CheckIn]:
    """The check-ins by (meeting id, member id) that `taps` amount to.

    `calendar` must hold every meeting that is open at the venue and time of any of `taps`. The
    earliest tap decides; a tap told twice counts once.
    """
    earliest: dict[tuple[int, int], tuple[int, TapKey]] = {}
    count: Counter[tuple[int, int]] = Counter()
    for tap in {each.key: each for each in taps}.values():
        if tap.at_ms is None or tap.member_id is None:
            continue
        for meeting_id in read(tap, calendar).meetings:
            pair = (meeting_id, tap.member_id)
            first = (tap.at_ms, tap.key)
            earliest[pair] = min(earliest.get(pair, first), first)
            count[pair] += 1
    return {
        (meeting_id, member_id): CheckIn(
            meeting_id,
            member_id,
            verdict(calendar.meeting(meeting_id), member_id, at_ms),
            at_ms,
            key,
            count[meeting_id, member_id],
        )
        for (meeting_id, member_id), (at_ms, key) in earliest.items()
    }


def verdict(meeting: Meeting, member_id: int, at_ms: int) -> Verdict:
    """What is said of a member whose earliest tap at `meeting` is at `at_ms`."""
    if member_id not in meeting.expected:
        return Verdict.GUEST
    return Verdict.LATE if meeting.is_late(at_ms) else Verdict.PRESENT


def verdict_without_tap(ends_ms: int, now_ms: int) -> Verdict:
    """What is said of an expected member who has no tap: NOT_SEEN until it is over, then PENDING.

    Nobody is called absent: the completeness gate is not built yet.
    """
    return Verdict.PENDING if now_ms > ends_ms else Verdict.NOT_SEEN


def quorum(kind: MeetingKind, rule: QuorumRule, voters: int, came: int, *, final: bool) -> Quorum:
    """Whether a meeting may vote: `came` of `voters`, those with a voting right that are expected.

    `final`: nobody can be found to have come after all. Exactly half is for the chair to judge:
    UNKNOWN under MORE_THAN_HALF. Source: 支部工作条例（试行）2018, art. 11.
    """
    if kind is not MeetingKind.BRANCH_ASSEMBLY:
        return Quorum.NOT_ASKED
    if voters and (2 * came > voters or (rule is QuorumRule.AT_LEAST_HALF and 2 * came == voters)):
        return Quorum.MET
    return Quorum.NOT_MET if final and 2 * came < voters else Quorum.UNKNOWN


@dataclass(frozen=True, slots=True)
class CoveringDevice:
    """A device that stood at the meeting's venue during its window, and what it has stated."""

    name: str
    completeness: Completeness
    stood: tuple[Validity, ...]
    """When it stood there; of what lies outside of the window nothing is asked."""


NOT_CONFIRMED: Final = Words("会议是否召开尚未确认")
NOT_HELD: Final = Words("会议已确认未召开")
NOT_TOLD: Final = Words("尚无通知本人参会的记录")
NO_DEVICE: Final = Words("会场当时没有登记的签到设备")
NO_MOMENT: Final = Words("（日期不明）")


def pending_reasons(
    opens_ms: int,
    ends_ms: int,
    devices: Sequence[CoveringDevice],
    zone: ZoneInfo,
    *,
    held: bool | None = None,
    sheet_complete: bool = False,
    is_over: bool = True,
) -> tuple[Words, ...]:
    """Why nothing is concluded of a member without a tap, in plain Chinese, the whole list.

    `held`: whether the meeting was confirmed as held, None while nobody has said; a complete
    paper sheet stands in for the devices. The gate of 无故缺席 wants all of it cleared; that a
    member was told has no record in this version at all, so the list is never empty.
    """
    said = () if held else (NOT_CONFIRMED if held is None else NOT_HELD,)
    if sheet_complete:
        return (*said, NOT_TOLD)
    reasons = [
        device_words(each, opens_ms, ends_ms, zone, is_over=is_over)
        for each in devices
        if not each.completeness.covers(opens_ms, ends_ms)
    ]
    if not devices:
        reasons.append(NO_DEVICE)
    else:
        reasons += unattended_words(opens_ms, ends_ms, devices, zone)
    return (*reasons, *said, NOT_TOLD)


def unattended_words(
    opens_ms: int, ends_ms: int, devices: Iterable[CoveringDevice], zone: ZoneInfo
) -> list[Words]:
    """A sentence for each part of the window in which none of the devices stood at the venue."""
    words = []
    until_ms = opens_ms
    spans = [(each.from_ms, each.to_ms) for device in devices for each in device.stood]
    for from_ms, to_ms in [*sorted(spans, key=lambda span: span[0]), (ends_ms + 1, None)]:
        if until_ms < min(from_ms, ends_ms + 1):
            begin, end = (moment(ms, ends_ms, zone) for ms in (until_ms, from_ms))
            match until_ms == opens_ms, from_ms > ends_ms:
                case True, True:
                    words.append(NO_DEVICE)
                case True, False:
                    words.append(Words("{end}前会场没有登记的签到设备", end=end))
                case False, True:
                    words.append(Words("{begin}后会场没有登记的签到设备", begin=begin))
                case _:
                    span = Words("{begin}至{end}会场没有登记的签到设备", begin=begin, end=end)
                    words.append(span)
        until_ms = max(until_ms, ends_ms + 1 if to_ms is None else to_ms)
    return words


def device_words(
    device: CoveringDevice,
    opens_ms: int,
    ends_ms: int,
    zone: ZoneInfo,
    *,
    is_over: bool = True,
) -> Words:
    """One sentence: through which time the device's record is complete, or why that is unknown.

    While the meeting is not over, a record that goes only so far is as it should be.
    """
    known = device.completeness
    name = device.name
    why = "" if known.obstacle is None else Words("（{why}）", why=known.obstacle)
    if known.is_closed and known.covers(opens_ms, ends_ms):
        return Words("设备“{name}”：已退役，记录已全部收到", name=name)
    if known.through_ms is None:
        contact = (
            ""
            if known.last_contact_ms is None
            else Words("，最后联系{at}", at=moment(known.last_contact_ms, ends_ms, zone))
        )
        return Words(
            "设备“{name}”：记录是否完整尚不清楚{contact}{why}", name=name, contact=contact, why=why
        )
    through = moment(known.through_ms, ends_ms, zone)
    if known.through_ms <= ends_ms and not is_over and not known.is_closed:
        return Words(
            "设备“{name}”：{through}以前的刷卡都已收到{why}", name=name, through=through, why=why
        )
    if known.through_ms <= ends_ms and not known.is_closed:
        return Words(
            "设备“{name}”：记录只完整至{through}，会议{end}结束{why}",
            name=name,
            through=through,
            end=moment(ends_ms, ends_ms, zone),
            why=why,
        )
    if not known.covers(opens_ms, ends_ms):
        touching = [each for each in known.holes if each.touches(opens_ms, ends_ms)]
        if any(each.is_forked for each in touching):
            return Words("设备“{name}”：会议期间的另一份记录已经丢失", name=name)
        return Words("设备“{name}”：会议期间有一段记录已损坏，读不出来", name=name)
    return Words("设备“{name}”：记录完整至{through}", name=name, through=through)


def moment(at_ms: int, near_ms: int, zone: ZoneInfo) -> Words:
    """`at_ms` as local time to the minute; with its date where that is not the day of `near_ms`.

    Of a time that no calendar holds it says so.
    """
    try:
        at, near = (datetime.fromtimestamp(ms / 1000, zone) for ms in (at_ms, near_ms))
    except (OverflowError, ValueError):
        return NO_MOMENT
    time = f"{at:%H:%M}"
    if at.date() == near.date():
        return Words("{time}", time=time)
    if at.year == near.year:
        return Words("{month}月{day}日{time}", month=at.month, day=at.day, time=time)
    return Words(
        "{year}年{month}月{day}日{time}", year=at.year, month=at.month, day=at.day, time=time
    )
