"""Attendance as text for a terminal, as JSON, and as CSV.

A table is for people: a term stands there in Chinese beside its identifier, times to the minute.
CSV is for spreadsheets and programs: the word and the identifier have a column each, times go to
the second.
"""

import csv
import dataclasses
import io
import json
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final, assert_never
from zoneinfo import ZoneInfo

from hub.domain.terms import Evidence, Quorum, Term, Verdict
from hub.exports import inert
from hub.store.queries import (
    AttendanceRow,
    Counts,
    MeetingAttendance,
    MeetingHead,
    MemberAttendance,
    OrganisationAttendance,
)

Attendance = MeetingAttendance | MemberAttendance | OrganisationAttendance

_COUNTS: Final = ("应到", "实到", "迟到", "请假", "未见", "待定", "列席")


class Format(StrEnum):
    """How attendance is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def render(attendance: Attendance, output: Format, zone: ZoneInfo) -> str:
    """`attendance` in that format; times in tables and CSV are in `zone`, in JSON UTC ms."""
    if output is Format.JSON:
        return json.dumps(dataclasses.asdict(attendance), ensure_ascii=False, indent=2) + "\n"
    head, rows = _rows(attendance, output, zone)
    if output is Format.CSV:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [inert(cell) for cell in row] for row in [head, *rows]
        )
        return text.getvalue()
    above, below = _around(attendance, zone)
    return "\n".join([*above, "", *_table(head, rows), *below]) + "\n"


def _rows(
    attendance: Attendance, output: Format, zone: ZoneInfo
) -> tuple[list[str], list[list[str]]]:
    titles = _Titles(output)
    match attendance:
        case MeetingAttendance():
            head = ["编号", "姓名", "组织", *titles.came, "刷卡次数"]
            return head, [_person(row, output, zone) for row in attendance.rows]
        case MemberAttendance():
            return [*titles.what, *titles.came], [
                [
                    *_what(each.meeting, output, zone),
                    *_came(each.verdict, each.at_ms, each.evidence, output, zone),
                ]
                for each in attendance.meetings
            ]
        case OrganisationAttendance():
            return [*titles.what, *_COUNTS], [
                [*_what(each.meeting, output, zone), *_figures(each.counts)]
                for each in attendance.meetings
            ]
        case _:
            assert_never(attendance)


class _Titles:
    """Column titles; CSV has one more for each identifier."""

    def __init__(self, output: Format) -> None:
        def term(words: str, identifier: str) -> list[str]:
            return [words, identifier] if output is Format.CSV else [words]

        self.what = ["会议", "名称", *term("类型", "kind"), "组织", "开始"]
        self.came = [*term("结果", "verdict"), "签到时间", *term("依据", "evidence")]


def _around(attendance: Attendance, zone: ZoneInfo) -> tuple[list[str], list[str]]:
    """Lines above and below the table."""
    match attendance:
        case MeetingAttendance(meeting=meeting):
            above = [
                f"{meeting.title}（{meeting.kind.zh}，{meeting.organisation.name}）"
                + ("　已取消" if meeting.cancelled else ""),
                " ".join(
                    [
                        _time(meeting.starts_ms, Format.TABLE, zone),
                        "至",
                        _time(meeting.ends_ms, Format.TABLE, zone),
                        meeting.venue.name,
                    ]
                ),
                _summary(attendance.counts),
                *_stated(attendance),
            ]
            below = ["", *(device.words for device in attendance.devices)]
            for count, what in (
                (attendance.unmatched, "未识别"),
                (attendance.unplaced, "未归会"),
                (attendance.undated, "时间待核"),
            ):
                if count:
                    below.append(f"{what}：{count} 次刷卡，待核对")
            if attendance.counts.pending:
                told = {device.words for device in attendance.devices}
                below += [f"待定原因：{each}" for each in attendance.reasons if each not in told]
            return above, below
        case MemberAttendance(member=member):
            return [f"{member.name}（{member.code}，{member.branch or '现无组织'}）"], []
        case OrganisationAttendance():
            return [
                f"{attendance.organisation.name}：{len(attendance.meetings)} 次会议（含下级）"
            ], ["", f"合计（人次）：{_summary(attendance.totals)}"]
        case _:
            assert_never(attendance)


def _person(row: AttendanceRow, output: Format, zone: ZoneInfo) -> list[str]:
    person = row.person
    return [
        person.code or "",
        person.name or "（外单位）",
        person.branch or "",
        *_came(row.verdict, row.at_ms, row.evidence, output, zone),
        str(row.taps or ""),
    ]


def _came(
    verdict: Verdict, at_ms: int | None, evidence: Evidence | None, output: Format, zone: ZoneInfo
) -> list[str]:
    return [*_term(verdict, output), _time(at_ms, output, zone), *_term(evidence, output)]


def _term(term: Term | None, output: Format) -> list[str]:
    if output is Format.CSV:
        return ["", ""] if term is None else [term.zh, term.value]
    return ["" if term is None else f"{term.zh} {term.value}"]


def _what(meeting: MeetingHead, output: Format, zone: ZoneInfo) -> list[str]:
    title = f"{meeting.title}（已取消）" if meeting.cancelled else meeting.title
    return [
        meeting.code,
        title,
        *_term(meeting.kind, output),
        meeting.organisation.name,
        _time(meeting.starts_ms, output, zone),
    ]


def _stated(attendance: MeetingAttendance) -> list[str]:
    """What people stated of the meeting, its partners, and whether it may vote."""
    meeting = attendance.meeting
    said = []
    if meeting.partners:
        said.append(f"联合召开：{'、'.join(each.name for each in meeting.partners)}")
    if meeting.chair:
        said.append(f"主持人：{meeting.chair}")
    if attendance.quorum is not Quorum.NOT_ASKED:
        said.append(f"法定人数：{attendance.quorum.zh} {attendance.quorum.value}")
    if attendance.held is not None:
        said.append("已确认召开" if attendance.held else "已确认没有召开")
    if attendance.head_count is not None:
        said.append(f"清点人数：{attendance.head_count}")
    if attendance.sheet_complete:
        said.append("签到表已录完")
    return said


def _figures(counts: Counts) -> list[str]:
    return [str(figure) for figure in dataclasses.astuple(counts)]


def _summary(counts: Counts) -> str:
    return "　".join(
        f"{name} {figure}" for name, figure in zip(_COUNTS, _figures(counts), strict=True)
    )


def _time(at_ms: int | None, output: Format, zone: ZoneInfo) -> str:
    if at_ms is None:
        return ""
    at = datetime.fromtimestamp(at_ms / 1000, zone)
    return f"{at:%Y-%m-%d %H:%M:%S}" if output is Format.CSV else f"{at:%Y-%m-%d %H:%M}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, *rows]
    widths = [max(_width(line[at]) for line in lines) for at in range(len(head))]
    return [
        "  ".join(
            cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]


def _width(text: str) -> int:
    """Columns of a terminal: a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)
