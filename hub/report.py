"""Attendance as text for a terminal, as JSON, and as CSV."""

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
_BEGINS_A_FORMULA: Final = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r")


class Format(StrEnum):
    """How attendance is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def render(attendance: Attendance, output: Format, zone: ZoneInfo) -> str:
    """`attendance` in that format; times in tables and CSV are in `zone`, in JSON UTC ms."""
    if output is Format.JSON:
        return json.dumps(dataclasses.asdict(attendance), ensure_ascii=False, indent=2) + "\n"
    head, rows = _rows(attendance, zone)
    if output is Format.CSV:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [inert(cell) for cell in row] for row in [head, *rows]
        )
        return text.getvalue()
    above, below = _around(attendance, zone)
    return "\n".join([*above, "", *_table(head, rows), *below]) + "\n"


def inert(cell: str) -> str:
    """`cell` so that no spreadsheet takes it for a formula."""
    return f"'{cell}" if cell.startswith(_BEGINS_A_FORMULA) else cell


def _rows(attendance: Attendance, zone: ZoneInfo) -> tuple[list[str], list[list[str]]]:
    match attendance:
        case MeetingAttendance():
            return ["编号", "姓名", "组织", "结果", "刷卡时间", "刷卡次数"], [
                _person(row, zone) for row in attendance.rows
            ]
        case MemberAttendance():
            return ["会议", "名称", "类型", "组织", "开始", "结果", "刷卡时间"], [
                [
                    *_what(each.meeting, zone),
                    f"{each.verdict.zh} {each.verdict}",
                    _time(each.at_ms, zone),
                ]
                for each in attendance.meetings
            ]
        case OrganisationAttendance():
            return ["会议", "名称", "类型", "组织", "开始", *_COUNTS], [
                [*_what(each.meeting, zone), *_figures(each.counts)] for each in attendance.meetings
            ]
        case _:
            assert_never(attendance)


def _around(attendance: Attendance, zone: ZoneInfo) -> tuple[list[str], list[str]]:
    """Lines above and below the table."""
    match attendance:
        case MeetingAttendance(meeting=meeting):
            above = [
                f"{meeting.title}（{meeting.kind.zh}，{meeting.organisation.name}）"
                + ("　已取消" if meeting.cancelled else ""),
                " ".join(
                    [
                        _time(meeting.starts_ms, zone),
                        "至",
                        _time(meeting.ends_ms, zone),
                        meeting.venue.name,
                    ]
                ),
                _summary(attendance.counts),
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


def _person(row: AttendanceRow, zone: ZoneInfo) -> list[str]:
    person = row.person
    return [
        person.code or "",
        person.name or "（外单位）",
        person.branch or "",
        f"{row.verdict.zh} {row.verdict}",
        _time(row.at_ms, zone),
        str(row.taps or ""),
    ]


def _what(meeting: MeetingHead, zone: ZoneInfo) -> list[str]:
    title = f"{meeting.title}（已取消）" if meeting.cancelled else meeting.title
    return [
        meeting.code,
        title,
        meeting.kind.zh,
        meeting.organisation.name,
        _time(meeting.starts_ms, zone),
    ]


def _figures(counts: Counts) -> list[str]:
    return [str(figure) for figure in dataclasses.astuple(counts)]


def _summary(counts: Counts) -> str:
    return "　".join(
        f"{name} {figure}" for name, figure in zip(_COUNTS, _figures(counts), strict=True)
    )


def _time(at_ms: int | None, zone: ZoneInfo) -> str:
    return "" if at_ms is None else f"{datetime.fromtimestamp(at_ms / 1000, zone):%Y-%m-%d %H:%M}"


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
