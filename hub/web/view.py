"""What the pages show, worded: made of what the queries give and the present time, nothing else."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Final, Self
from zoneinfo import ZoneInfo

from hub.domain.attendance import MINUTE_MS
from hub.domain.terms import Evidence, Quorum, Term, Verdict
from hub.domain.words import Words
from hub.store.queries import (
    AttendanceRow,
    Counts,
    MeetingAttendance,
    MeetingCounts,
    MeetingHead,
    Overlap,
)
from hub.web.words import day_words, short_day, t

_RECENT: Final = 6
SILENT_MS: Final = 100_000
"""A device that has not been heard of for so long may hold taps: it reports every 30 seconds."""


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

_QUORUM_LOOK: Final = {
    Quorum.MET: ("ok", "ok"),
    Quorum.NOT_MET: ("warn", "alert"),
    Quorum.UNKNOWN: ("open", "ask"),
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
    how: str
    """By what it is shown; empty where nothing is known."""
    people: int = 1
    """For how many it stands: who is not named stands with others of whom the same is said."""


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
    partners: str
    """The other organisations of a joint meeting."""
    chair: str
    venue: str
    day: str
    iso: str
    hours: str
    check_in: str
    """When taps count, and from when they are late."""
    chip: Chip
    cancelled: bool
    why_cancelled: str
    """The reason that was given; empty: none is known, or it is not cancelled."""
    over: bool
    counts: Counts
    doubts: tuple[str, ...]
    """Why the figures may lag behind what happens; empty while they do not, or when it is over."""
    quorum: Chip | None
    """None where none is asked for."""
    stated: tuple[Chip, ...]
    """What people stated of the meeting, and how it fits."""
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
    overlaps: tuple[tuple[str, str | None], ...]
    """Each other meeting for which a tap may count, in words, with its public id if it is seen."""
    as_of: str
    summary: str
    """The figures in one sentence, to be read aloud."""


def _rate(found: MeetingAttendance) -> str | None:
    """到会率; none where nobody is expected, or where 0% would only mean that nothing is known."""
    counts = found.counts
    if not counts.expected or not (counts.present or found.complete):
        return None
    return f"{100 * counts.present / counts.expected:.1f}%"


def attendance(found: MeetingAttendance, zone: ZoneInfo, *, is_cut_off: bool = False) -> Attendance:
    """A meeting as its page shows it at `found.as_of_ms`.

    `is_cut_off`: the hub itself takes in no taps now.
    """
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
    lines = _unnamed_together(members)
    came = [each for each in people if each[0].at_ms is not None]
    came.sort(key=lambda each: each[0].at_ms or 0, reverse=True)
    record_icon, record = _record(found, state, zone)
    return Attendance(
        public_id=head.public_id,
        title=head.title,
        kind=t(head.kind),
        organisation=head.organisation.name,
        partners=t("、").join(each.name for each in head.partners),
        chair=head.chair,
        venue=head.venue.name,
        day=day_words(starts.date()),
        iso=starts.date().isoformat(),
        hours=_hours(starts, ends),
        check_in=_check_in(head, starts, zone),
        chip=Chip.of_phase(state),
        cancelled=head.cancelled,
        why_cancelled=found.why_cancelled,
        over=over,
        counts=counts,
        doubts=_doubts(found, state, is_cut_off=is_cut_off),
        quorum=_quorum(found),
        stated=_stated(found, state),
        rate=_rate(found),
        members=lines,
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
        overlaps=tuple(
            (_overlap(each, starts.date(), zone), each.public_id) for each in found.overlaps
        ),
        as_of=f"{_local(now_ms, zone):%Y-%m-%d %H:%M:%S}",
        summary=_summary(counts, over=over),
    )


def _overlap(each: Overlap, day: date, zone: ZoneInfo) -> str:
    starts, ends = _local(each.starts_ms, zone), _local(each.ends_ms, zone)
    hours = _hours(starts, ends)
    if starts.date() != day:
        hours = f"{short_day(starts.date())} {hours}"
    if each.public_id is None:
        return t("其他组织的会议（{hours}）", hours=hours)
    return t("“{title}”（{hours}）", title=each.title, hours=hours)


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
        how=_how(row),
    )


def _unnamed_together(
    people: Iterable[tuple[AttendanceRow, PersonLine]],
) -> tuple[PersonLine, ...]:
    """The lines of people in order; those who are not named, of one branch and verdict, in one."""
    found: dict[object, PersonLine] = {}
    for number, (row, line) in enumerate(people):
        if row.person.name is not None:
            found[number] = line
            continue
        key = (row.person.branch, row.verdict)
        count = found[key].people + 1 if key in found else 1
        found[key] = replace(
            found.get(key, line),
            key=f"{key} {count}",
            at="" if count > 1 else line.at,
            people=count,
        )
    return tuple(
        each
        if each.people == 1
        else replace(each, note=t("{note}，{n}人", note=each.note, n=each.people))
        for each in found.values()
    )


def _how(row: AttendanceRow) -> str:
    if row.evidence is None:
        return ""
    if row.evidence is Evidence.TAP and row.taps > 1:
        return t("刷卡 {n} 次", n=row.taps)
    words = t(row.evidence)
    return "" if words == t(row.verdict) else words


def _doubts(found: MeetingAttendance, state: Phase, *, is_cut_off: bool) -> tuple[str, ...]:
    if state not in {Phase.OPEN, Phase.RUNNING}:
        return ()
    if is_cut_off:
        return (t("系统现在收不到签到设备的数据，刷卡会晚些才显示。设备上的记录不会丢。"),)
    if not found.devices:
        return (t("会场没有登记签到设备，这里不会有刷卡显示。"),)
    doubts = []
    for each in found.devices:
        if each.last_contact_ms is None:
            doubts.append(t("设备“{name}”还没有联系上，它的刷卡暂时显示不出来。", name=each.name))
        elif found.as_of_ms - each.last_contact_ms > SILENT_MS:
            silent = (found.as_of_ms - each.last_contact_ms) // MINUTE_MS
            doubts.append(
                t(
                    "设备“{name}”已有 {n} 分钟没有联系，它的刷卡会晚些才显示。设备上的记录不会丢。",
                    name=each.name,
                    n=silent,
                )
            )
    return tuple(doubts)


def _quorum(found: MeetingAttendance) -> Chip | None:
    if found.quorum is Quorum.NOT_ASKED:
        return None
    return Chip(*_QUORUM_LOOK[found.quorum], t(found.quorum))


def _stated(found: MeetingAttendance, state: Phase) -> tuple[Chip, ...]:
    """Whether it was held, the head-count beside what is on record, the paper sheet."""
    said = []
    match found.held:
        case True:
            said.append(Chip("ok", "ok", t("已确认召开")))
        case False:
            said.append(Chip("stop", "stop", t("已确认没有召开")))
        case None if state is Phase.OVER:
            said.append(Chip("open", "ask", t("还没有人确认会议是否召开")))
        case None:
            pass
    if found.head_count is not None:
        there = found.counts.present + found.counts.guests
        if found.head_count == there:
            said.append(Chip("ok", "people", t("清点 {n} 人，与到会记录一致", n=there)))
        elif found.head_count > there:
            said.append(
                Chip(
                    "warn",
                    "people",
                    t(
                        "清点 {n} 人，到会记录 {there} 人（含列席）：记录比清点少 {less} 人，可能有人没有刷卡",  # noqa: E501
                        n=found.head_count,
                        there=there,
                        less=found.head_count - there,
                    ),
                )
            )
        else:
            said.append(
                Chip(
                    "warn",
                    "people",
                    t(
                        "清点 {n} 人，到会记录 {there} 人（含列席）：记录比清点多 {more} 人，请再数一遍，看是否有人代刷卡",  # noqa: E501
                        n=found.head_count,
                        there=there,
                        more=there - found.head_count,
                    ),
                )
            )
    if found.sheet_complete:
        said.append(Chip("ok", "sheet", t("签到表已录完")))
    return tuple(said)


def _check_in(head: MeetingHead, starts: datetime, zone: ZoneInfo) -> str:
    opens = _local(head.opens_ms, zone)
    when = f"{opens:%H:%M}" if opens.date() == starts.date() else f"{opens:%m-%d %H:%M}"
    late = _local(head.starts_ms + head.grace_minutes * MINUTE_MS, zone)
    return t("{when} 开始，{late} 以后算迟到", when=when, late=f"{late:%H:%M}")


def _record(found: MeetingAttendance, state: Phase, zone: ZoneInfo) -> tuple[str, str]:
    if state is Phase.CANCELLED:
        return "stop", t("会议已取消。")
    if found.sheet_complete:
        return "ok", t("纸质签到表已录完，到会情况以它为准。")
    if not found.devices:
        return "alert", t("会场没有登记签到设备，刷卡情况无从得知。")
    if found.complete:
        return "ok", t("会议期间的刷卡记录已全部收齐。")
    if state is Phase.OVER and all(each.complete for each in found.devices):
        opens, ends = (
            _local(each, zone) for each in (found.meeting.opens_ms, found.meeting.ends_ms)
        )
        return "alert", t(
            "签到期间（{hours}）不是一直有设备：{parts}。已有的设备记录都已收齐；没有设备的那段时间里，来的人刷不了卡。",
            hours=_hours(opens, ends),
            parts=t("；").join(t(each) for each in found.unattended),
        )
    if state is Phase.OVER:
        return "alert", t("会议期间的刷卡记录还没有收齐，实到人数可能增加。")
    return "open", t("会议还没有结束，结束后会说明记录是否收齐。")


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
    if counts.excused:
        words.append(t("请假{n}人", n=counts.excused))
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
