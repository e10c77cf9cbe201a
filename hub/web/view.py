"""What the pages show, worded: made of what the queries give and the present time, nothing else."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, Self
from zoneinfo import ZoneInfo

from hub.domain.attendance import MINUTE_MS
from hub.domain.terms import Term, Verdict
from hub.domain.words import Words
from hub.store.queries import (
    AttendanceRow,
    Counts,
    MeetingAttendance,
    MeetingCounts,
    MeetingHead,
)
from hub.web.words import day_words, short_day, t

_RECENT: Final = 6


class Phase(Term):
    """Where a meeting stands now."""

    CANCELLED = "CANCELLED", "已取消"
    AHEAD = "AHEAD", "未开始"
    OPEN = "OPEN", "签到中"
    RUNNING = "RUNNING", "进行中"
    OVER = "OVER", "已结束"


_PHASE_LOOK: Final = {
    Phase.CANCELLED: ("stop", "stop"),
    Phase.AHEAD: ("open", "open"),
    Phase.OPEN: ("info", "tap"),
    Phase.RUNNING: ("ok", "run"),
    Phase.OVER: ("open", "flag"),
}

_VERDICT_LOOK: Final = {
    Verdict.PRESENT: ("ok", "ok"),
    Verdict.LATE: ("warn", "late"),
    Verdict.WITNESSED: ("ok", "eye"),
    Verdict.BACK_FILLED: ("ok", "edit"),
    Verdict.EXCUSED: ("info", "leave"),
    Verdict.GUEST: ("info", "guest"),
    Verdict.NOT_SEEN: ("open", "open"),
    Verdict.PENDING: ("open", "ask"),
}

# Who is missing comes first: that is what the page is opened for.
_ORDER: Final = (
    Verdict.PENDING,
    Verdict.NOT_SEEN,
    Verdict.EXCUSED,
    Verdict.LATE,
    Verdict.WITNESSED,
    Verdict.BACK_FILLED,
    Verdict.PRESENT,
)


@dataclass(frozen=True, slots=True)
class Chip:
    """A state: its colour, its icon, and always its word."""

    style: str
    icon: str
    word: str

    @classmethod
    def of_phase(cls, phase: Phase) -> Self:
        """A meeting's phase."""
        return cls(*_PHASE_LOOK[phase], t(phase))

    @classmethod
    def of_verdict(cls, verdict: Verdict) -> Self:
        """What is said of a member."""
        return cls(*_VERDICT_LOOK[verdict], t(verdict))


def phase(meeting: MeetingHead, now_ms: int) -> Phase:
    """Where `meeting` stands at `now_ms`."""
    if meeting.cancelled:
        return Phase.CANCELLED
    if now_ms < meeting.opens_ms:
        return Phase.AHEAD
    if now_ms < meeting.starts_ms:
        return Phase.OPEN
    return Phase.RUNNING if now_ms <= meeting.ends_ms else Phase.OVER


def next_turn_ms(meeting: MeetingHead, now_ms: int) -> int | None:
    """When the page reads differently though nothing happens; None when that is all over."""
    turns = (
        meeting.opens_ms,
        meeting.starts_ms,
        meeting.starts_ms + meeting.grace_minutes * MINUTE_MS + 1,
        meeting.ends_ms + 1,
    )
    return min((each for each in turns if each > now_ms), default=None)


@dataclass(frozen=True, slots=True)
class Line:
    """A meeting in the list."""

    public_id: str
    title: str
    kind: str
    organisation: str
    venue: str
    day: str
    """Such as 4月24日 周五."""
    iso: str
    hours: str
    chip: Chip
    cancelled: bool
    begun: bool
    """Whether taps can have come in: before that there is nothing to count."""
    counts: Counts


TODAY: Final = Words("今天")
NEXT: Final = Words("接下来")
BEFORE: Final = Words("之前")
FOUND: Final = Words("查询结果")


@dataclass(frozen=True, slots=True)
class Section:
    """Meetings under one heading."""

    title: Words
    note: str
    lines: tuple[Line, ...]
    is_today: bool

    @property
    def with_day(self) -> bool:
        """Whether the day of each has to be said."""
        return not self.is_today


def line(each: MeetingCounts, now_ms: int, zone: ZoneInfo) -> Line:
    """A meeting as the list shows it."""
    head = each.meeting
    starts, ends = _local(head.starts_ms, zone), _local(head.ends_ms, zone)
    state = phase(head, now_ms)
    return Line(
        public_id=head.public_id,
        title=head.title,
        kind=t(head.kind),
        organisation=head.organisation.name,
        venue=head.venue.name,
        day=short_day(starts.date()),
        iso=starts.date().isoformat(),
        hours=_hours(starts, ends),
        chip=Chip.of_phase(state),
        cancelled=head.cancelled,
        begun=state not in {Phase.AHEAD, Phase.CANCELLED},
        counts=each.counts,
    )


def around_today(
    meetings: Iterable[MeetingCounts], today: date, zone: ZoneInfo
) -> list[tuple[Words, MeetingCounts]]:
    """Each meeting with its heading: today's, then the coming, then the past, latest first."""
    by: dict[Words, list[MeetingCounts]] = {TODAY: [], NEXT: [], BEFORE: []}
    for each in meetings:
        day = _local(each.meeting.starts_ms, zone).date()
        by[TODAY if day == today else NEXT if day > today else BEFORE].append(each)
    by[BEFORE].reverse()
    return [(title, each) for title, some in by.items() for each in some]


@dataclass(frozen=True, slots=True)
class PersonLine:
    """One person of a meeting."""

    key: str
    """Differs when there is something new about them."""
    name: str
    note: str
    chip: Chip
    at: str
    taps: int


@dataclass(frozen=True, slots=True)
class DeviceLine:
    """A covering device."""

    icon: str
    words: str


@dataclass(frozen=True, slots=True)
class Attendance:
    """One meeting with everybody, as the page shows it."""

    public_id: str
    title: str
    kind: str
    organisation: str
    venue: str
    day: str
    hours: str
    check_in: str
    """When taps count, and from when they are late."""
    chip: Chip
    cancelled: bool
    over: bool
    counts: Counts
    rate: str | None
    """到会率 in words, None where none can be told, see `_rate`."""
    members: tuple[PersonLine, ...]
    guests: tuple[PersonLine, ...]
    recent: tuple[PersonLine, ...]
    devices: tuple[DeviceLine, ...]
    record: str
    """Whether all taps are in, in one sentence."""
    record_icon: str
    unmatched: int
    unplaced: int
    undated: int
    reasons: tuple[str, ...]
    as_of: str
    summary: str
    """The figures in one sentence, to be read aloud."""


def _rate(found: MeetingAttendance) -> str | None:
    """到会率; none where nobody is expected, or where 0% would only mean that nothing is known."""
    counts = found.counts
    if not counts.expected or not (counts.present or found.complete):
        return None
    return f"{100 * counts.present / counts.expected:.1f}%"


def attendance(found: MeetingAttendance, zone: ZoneInfo) -> Attendance:
    """A meeting as its page shows it at `found.as_of_ms`."""
    head, counts, now_ms = found.meeting, found.counts, found.as_of_ms
    starts, ends = _local(head.starts_ms, zone), _local(head.ends_ms, zone)
    state = phase(head, now_ms)
    over = state is Phase.OVER
    names = Counter(row.person.name for row in found.rows)
    people = [
        (row, _person(number, row, head, zone, shared=names[row.person.name] > 1))
        for number, row in enumerate(found.rows)
    ]
    members = [each for each in people if each[0].verdict is not Verdict.GUEST]
    members.sort(key=lambda each: (_ORDER.index(each[0].verdict), each[0].at_ms or 0))
    came = [each for each in people if each[0].at_ms is not None]
    came.sort(key=lambda each: each[0].at_ms or 0, reverse=True)
    record_icon, record = _record(found, state)
    return Attendance(
        public_id=head.public_id,
        title=head.title,
        kind=t(head.kind),
        organisation=head.organisation.name,
        venue=head.venue.name,
        day=day_words(starts.date()),
        hours=_hours(starts, ends),
        check_in=_check_in(head, starts, zone),
        chip=Chip.of_phase(state),
        cancelled=head.cancelled,
        over=over,
        counts=counts,
        rate=_rate(found),
        members=tuple(each for _, each in members),
        guests=tuple(each for row, each in people if row.verdict is Verdict.GUEST),
        recent=tuple(each for _, each in came[:_RECENT]),
        devices=tuple(
            DeviceLine("ok" if each.complete else "alert" if over else "open", t(each.words))
            for each in found.devices
        ),
        record=record,
        record_icon=record_icon,
        unmatched=found.unmatched,
        unplaced=found.unplaced,
        undated=found.undated,
        reasons=_reasons(found) if over else (),
        as_of=f"{_local(now_ms, zone):%Y-%m-%d %H:%M:%S}",
        summary=_summary(counts, over=over),
    )


def _person(
    number: int, row: AttendanceRow, head: MeetingHead, zone: ZoneInfo, *, shared: bool
) -> PersonLine:
    person = row.person
    branch = person.branch or ""
    if person.name is None:
        name, note = t("外单位人员"), branch
    else:
        away = "" if branch == head.organisation.name else branch
        code = t("编号 {code}", code=person.code) if shared else ""
        name, note = person.name, " ".join(part for part in (away, code) if part)
    return PersonLine(
        key=f"{person.public_id or number} {row.verdict} {row.at_ms or ''}",
        name=name,
        note=note,
        chip=Chip.of_verdict(row.verdict),
        at="" if row.at_ms is None else f"{_local(row.at_ms, zone):%H:%M:%S}",
        taps=row.taps,
    )


def _check_in(head: MeetingHead, starts: datetime, zone: ZoneInfo) -> str:
    opens = _local(head.opens_ms, zone)
    when = f"{opens:%H:%M}" if opens.date() == starts.date() else f"{opens:%m-%d %H:%M}"
    late = _local(head.starts_ms + head.grace_minutes * MINUTE_MS, zone)
    return t("{when} 开始，{late} 以后算迟到", when=when, late=f"{late:%H:%M}")


def _record(found: MeetingAttendance, state: Phase) -> tuple[str, str]:
    if state is Phase.CANCELLED:
        return "stop", t("会议已取消。")
    if not found.devices:
        return "alert", t("会场没有登记签到设备，刷卡情况无从得知。")
    if found.complete:
        return "ok", t("会议期间的刷卡记录已全部收齐。")
    if state is Phase.OVER and all(each.complete for each in found.devices):
        return "alert", t("会议期间有一段时间会场没有登记的签到设备，那时的刷卡情况无从得知。")
    if state is Phase.OVER:
        return "alert", t("会议期间的刷卡记录还没有收齐，实到人数可能增加。")
    return "open", t("会议结束后才能确认记录是否收齐。")


def _reasons(found: MeetingAttendance) -> tuple[str, ...]:
    # What is said of each device stands on the page already.
    devices = {each.words for each in found.devices}
    others = tuple(t(each) for each in found.reasons if each not in devices)
    if len(others) == len(found.reasons):
        return others
    return (t("刷卡记录还没有收齐（见上）"), *others)


def _summary(counts: Counts, *, over: bool) -> str:
    words = [t("应到{n}人", n=counts.expected), t("实到{n}人", n=counts.present)]
    if counts.late:
        words.append(t("其中迟到{n}人", n=counts.late))
    if over:
        words.append(t("待定{n}人", n=counts.pending))
    else:
        words.append(t("未见{n}人", n=counts.not_seen))
    if counts.guests:
        words.append(t("列席{n}人", n=counts.guests))
    return t("，").join(words)


def _hours(starts: datetime, ends: datetime) -> str:
    if starts.date() == ends.date():
        return f"{starts:%H:%M}–{ends:%H:%M}"
    return t(
        "{starts}–{month}月{day}日{ends}",
        starts=f"{starts:%H:%M}",
        month=ends.month,
        day=ends.day,
        ends=f"{ends:%H:%M}",
    )


def _local(at_ms: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, zone)
