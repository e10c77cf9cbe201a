"""Local days of the district, and the spans of time that they are."""

import re
from datetime import date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

FIRST_DAY: Final = date(2000, 1, 1)
LAST_DAY: Final = date(2199, 12, 31)
"""What people may ask for lies from FIRST_DAY to LAST_DAY."""


MAX_DAYS: Final = 400
"""An organisation's meetings may be asked for over so long a period at once: a year and more."""


def is_too_long(first: date, last: date) -> bool:
    """Whether a period, its last day included, is longer than MAX_DAYS."""
    return (last - first).days >= MAX_DAYS


def span_ms(first: date, last: date, zone: ZoneInfo) -> tuple[int, int]:
    """The half-open span in ms of local days, the last one included."""
    start = datetime(first.year, first.month, first.day, tzinfo=zone)
    after = last + timedelta(days=1)
    end = datetime(after.year, after.month, after.day, tzinfo=zone)
    return round(start.timestamp() * 1000), round(end.timestamp() * 1000)


def day_from(text: str) -> date | None:
    """The day that a text such as 2026-07-01 names; None for any other, or one out of range."""
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if FIRST_DAY <= day <= LAST_DAY else None


def moment_from(day: str, time: str, zone: ZoneInfo) -> int | None:
    """The moment in ms that a local day and a time such as 18:30 name; None for anything else."""
    found = day_from(day)
    if found is None or not re.fullmatch(r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9])?", time):
        return None
    hour, minute, second, *_ = *map(int, time.split(":")), 0
    at = datetime(found.year, found.month, found.day, hour, minute, second, tzinfo=zone)
    return round(at.timestamp() * 1000)
