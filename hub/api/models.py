"""What the API takes and gives, as JSON.

Days are local days of the district; times are RFC 3339 with the district's offset and always three
digits of milliseconds, so nothing of the hub's own milliseconds is lost. Identifiers are those of
`docs/glossary.md`; `public_id`s are UUIDs.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Final, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from hub.days import FIRST_DAY, LAST_DAY
from hub.domain.terms import Evidence, MeetingKind, Quorum, Verdict
from hub.store import attendance_query, queries

BACK_DAYS: Final = 90
AHEAD_DAYS: Final = 30
MAX_LIMIT: Final = 500
MAX_OFFSET: Final = 1_000_000
_DAY_SCHEMA: Final[dict[str, Any]] = {
    "type": "string",
    "format": "date",
    "examples": ["2026-07-01"],
}


# --- In ---------------------------------------------------------------------------------------


def _day(value: Any) -> Any:
    # Pydantic would also take a number of seconds for a date.
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise ValueError("is no day such as 2026-07-01")
    try:
        day = date.fromisoformat(value)
    except ValueError:
        raise ValueError("is no day of the calendar") from None
    if not FIRST_DAY <= day <= LAST_DAY:
        raise ValueError(f"is not between {FIRST_DAY} and {LAST_DAY}")
    return day


Day = Annotated[date, PlainValidator(_day), WithJsonSchema(_DAY_SCHEMA)]

_RFC_3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})",
    re.IGNORECASE,
)


def _moment(value: Any) -> datetime:
    if not isinstance(value, str) or not (found := _RFC_3339.fullmatch(value)):
        raise ValueError("is no time such as 2026-07-01T14:30:00+08:00")
    text = value.upper()
    if fraction := found[1]:  # more digits than a datetime holds are cut off
        text = text.replace(fraction, f".{fraction[1:7]:0<6}")
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("is no time of the calendar") from None
    if not FIRST_DAY <= at.date() <= LAST_DAY:
        raise ValueError(f"is not between {FIRST_DAY} and {LAST_DAY}")
    return at


Moment = Annotated[
    datetime,
    PlainValidator(_moment),
    WithJsonSchema(
        {"type": "string", "format": "date-time", "examples": ["2026-07-01T14:30:00+08:00"]}
    ),
]
"""A time that is given: RFC 3339, of a day that the hub knows."""


class In(BaseModel):
    """A query or a body: what is not known of it is refused by name."""

    model_config = ConfigDict(extra="forbid")


class Paged(In):
    """The query of a list."""

    limit: int = Field(100, ge=1, le=MAX_LIMIT, description="How many items at most.")
    offset: int = Field(0, ge=0, le=MAX_OFFSET, description="How many items to leave out.")


class Period(Paged):
    """The query of everything that is asked for by days."""

    model_config = ConfigDict(populate_by_name=True)

    first: Day | None = Field(
        None,
        alias="from",
        description=f"First day, local; by default {BACK_DAYS} days ago, or `to` if earlier.",
    )
    last: Day | None = Field(
        None,
        alias="to",
        description=f"Last day, local; by default {AHEAD_DAYS} days ahead, or `from` if later.",
    )

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if self.first and self.last and self.first > self.last:
            raise ValueError("from: is after to")
        return self

    def days(self, today: date) -> tuple[date, date]:
        """First and last day, with the defaults filled in."""
        first = self.first or today - timedelta(days=BACK_DAYS)
        last = self.last or today + timedelta(days=AHEAD_DAYS)
        if first > last:
            return (self.first, self.first) if self.first else (last, last)
        return first, last


def _decode_32(text: str) -> bytes:
    if not re.fullmatch(r"[A-Za-z0-9_-]{43}", text):
        raise ValueError("is not 32 bytes in base64url without padding (43 characters)")
    raw = urlsafe_b64decode(text + "=")
    if urlsafe_b64encode(raw).decode().rstrip("=") != text:
        raise ValueError("is not 32 bytes in base64url: bits beyond the end are set")
    return raw


Bytes32 = Annotated[
    bytes,
    BeforeValidator(lambda value: _decode_32(value) if isinstance(value, str) else value),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9_-]{43}$"}),
]


class EnrolmentRequest(BaseModel):
    """What an edge sends to join. Fields not named here are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)

    sign_key: Bytes32 = Field(description="Ed25519 public key, 32 bytes.")
    seal_key: Bytes32 = Field(description="X25519 public key, 32 bytes.")
    proof: Bytes32 = Field(description="HMAC-SHA-256 that proves the one-time code.")


# --- Out --------------------------------------------------------------------------------------


def _milliseconds(value: datetime) -> str:
    return value.isoformat(timespec="milliseconds")


def _is_aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("has no offset")
    return value


Time = Annotated[
    datetime,
    AfterValidator(_is_aware),
    PlainSerializer(_milliseconds, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "examples": ["2026-07-01T14:30:00.000+08:00"],
        }
    ),
]


class Out(BaseModel):
    """Part of an answer."""

    model_config = ConfigDict(frozen=True)


class Problem(Out):
    """Why a request was not answered."""

    detail: str = Field(description="In words; a bad input is named.")


class Healthy(Out):
    """The hub works."""

    status: str = Field("ok", examples=["ok"])


class EnrolmentAnswer(Out):
    """The hub's answer to an edge."""

    answer: str = Field(description="The signed enrolment (COSE_Sign1), base64url, no padding.")


class Ref(Out):
    """An organisation or a venue."""

    public_id: str
    code: str
    name: str


class MeetingOut(Out):
    """What a meeting is."""

    public_id: str
    code: str
    title: str
    kind: MeetingKind
    organisation: Ref
    partners: list[Ref] = Field(description="The other organisations of a joint meeting.")
    venue: Ref
    chair: str = Field(description="主持人, empty where none is named.")
    day: date = Field(description="The local day of its start.")
    opens_at: Time = Field(description="From here on a tap counts for it, until its end.")
    starts_at: Time
    ends_at: Time
    grace_minutes: int = Field(description="LATE begins so many minutes after the start.")
    cancelled: bool


class CountsOut(Out):
    """The figures of a meeting, or sums of them (人次)."""

    expected: int = Field(description="应到")
    present: int = Field(description="实到: of the expected, those who came, LATE included.")
    late: int = Field(description="迟到")
    excused: int = Field(description="请假")
    not_seen: int = Field(description="未见: no tap yet, the meeting is not over.")
    pending: int = Field(description="待定: no tap, nothing concluded.")
    guests: int = Field(description="列席: not among the expected.")


class MeetingItem(Out):
    """A meeting in a list."""

    meeting: MeetingOut
    counts: CountsOut


class _Page(Out):
    total: int = Field(description="How many items there are in all.")
    limit: int
    offset: int
    as_of: Time


class MeetingList(_Page):
    """Meetings, by start."""

    items: list[MeetingItem]


class PersonOut(Out):
    """A member; of a guest from outside of the token's sub-tree only the branch is told."""

    public_id: str | None
    code: str | None
    name: str | None
    branch: str | None


class PersonItem(Out):
    """One person of a meeting."""

    person: PersonOut
    verdict: Verdict
    at: Time | None = Field(description="Of the earliest tap that counts.")
    taps: int
    evidence: Evidence | None = Field(description="By what it is shown; null: nothing is known.")


class DeviceOut(Out):
    """A device that covers the meeting, and how complete its record is."""

    public_id: str
    name: str
    complete: bool = Field(description="Nothing of the meeting's window can be missing.")
    complete_through: Time | None
    last_contact: Time | None
    words: str = Field(description="The same in Chinese.")


class MeetingAttendanceOut(Out):
    """A meeting with everybody it concerns."""

    meeting: MeetingOut
    counts: CountsOut
    items: list[PersonItem] = Field(description="The expected by code, then guests by time.")
    devices: list[DeviceOut]
    unmatched: int = Field(description="Taps of cards that are bound to nobody.")
    unplaced: int = Field(description="Taps that belong to none of several open meetings.")
    undated: int = Field(description="Taps that may have been in the window: time not known.")
    reasons: list[str] = Field(description="Why nothing is concluded of those without a tap.")
    complete: bool = Field(description="Nothing of the window can be missing.")
    held: bool | None = Field(description="Whether it was confirmed as held; null: nobody said.")
    head_count: int | None = Field(description="清点人数")
    sheet_complete: bool = Field(description="A signed paper sheet was declared complete.")
    quorum: Quorum
    as_of: Time


class OrganisationAttendanceOut(_Page):
    """An organisation's meetings and all below it, with sums over the whole period."""

    organisation: Ref
    totals: CountsOut
    items: list[MeetingItem]


class MemberItem(Out):
    """A member at one meeting."""

    meeting: MeetingOut
    verdict: Verdict
    at: Time | None
    taps: int
    evidence: Evidence | None


class MemberAttendanceOut(_Page):
    """Where a member was expected, and where else the member came."""

    member: PersonOut
    items: list[MemberItem]


class AttendanceItem(Out):
    """One member at one meeting."""

    meeting: Ref = Field(description="`name` is its title.")
    kind: MeetingKind
    organisation: str = Field(description="The name of the host.")
    venue: str
    starts_at: Time
    member: Ref
    branch: str | None = Field(description="Where the member belonged then.")
    verdict: Verdict
    at: Time | None
    taps: int
    evidence: Evidence | None


class SumOut(Out):
    """How often, and how many different people."""

    times: int = Field(description="人次")
    people: int = Field(description="人")


class SumsOut(Out):
    """Sums over all that fits, not over a page."""

    all: SumOut
    meetings: int
    expected: SumOut
    present: SumOut
    by_verdict: dict[Verdict, SumOut] = Field(description="Verdicts that nothing has are left out.")


class AttendanceList(_Page):
    """Attendance by conditions, the latest meeting first."""

    totals: SumsOut
    items: list[AttendanceItem]


class MemberFound(Out):
    """A member in a list."""

    public_id: str
    code: str
    name: str
    branch: str | None


class MemberList(_Page):
    """Members, by code."""

    items: list[MemberFound]


class Told:
    """Turns what the queries give into what the API says, with times in one zone."""

    def __init__(self, zone: ZoneInfo) -> None:
        """Times are told in `zone`."""
        self._zone = zone

    def time(self, at_ms: int) -> datetime:
        """A time in the zone."""
        return datetime.fromtimestamp(at_ms / 1000, self._zone)

    def maybe(self, at_ms: int | None) -> datetime | None:
        """A time in the zone, or None."""
        return None if at_ms is None else self.time(at_ms)

    def meeting(self, head: queries.MeetingHead) -> MeetingOut:
        """What a meeting is."""
        starts_at = self.time(head.starts_ms)
        return MeetingOut(
            public_id=head.public_id,
            code=head.code,
            title=head.title,
            kind=head.kind,
            organisation=named(head.organisation),
            partners=[named(each) for each in head.partners],
            venue=named(head.venue),
            chair=head.chair,
            day=starts_at.date(),
            opens_at=self.time(head.opens_ms),
            starts_at=starts_at,
            ends_at=self.time(head.ends_ms),
            grace_minutes=head.grace_minutes,
            cancelled=head.cancelled,
        )

    def item(self, each: queries.MeetingCounts) -> MeetingItem:
        """A meeting in a list."""
        return MeetingItem(meeting=self.meeting(each.meeting), counts=counts(each.counts))

    def attendance(self, found: queries.MeetingAttendance) -> MeetingAttendanceOut:
        """A meeting with everybody."""
        return MeetingAttendanceOut(
            meeting=self.meeting(found.meeting),
            counts=counts(found.counts),
            items=[
                PersonItem(
                    person=person(row.person),
                    verdict=row.verdict,
                    at=self.maybe(row.at_ms),
                    taps=row.taps,
                    evidence=row.evidence,
                )
                for row in found.rows
            ],
            devices=[
                DeviceOut(
                    public_id=each.public_id,
                    name=each.name,
                    complete=each.complete,
                    complete_through=self.maybe(each.through_ms),
                    last_contact=self.maybe(each.last_contact_ms),
                    words=each.words,
                )
                for each in found.devices
            ],
            unmatched=found.unmatched,
            unplaced=found.unplaced,
            undated=found.undated,
            reasons=list(found.reasons),
            complete=found.complete,
            held=found.held,
            head_count=found.head_count,
            sheet_complete=found.sheet_complete,
            quorum=found.quorum,
            as_of=self.time(found.as_of_ms),
        )

    def member_item(self, each: queries.MemberMeeting) -> MemberItem:
        """A member at one meeting."""
        return MemberItem(
            meeting=self.meeting(each.meeting),
            verdict=each.verdict,
            at=self.maybe(each.at_ms),
            taps=each.taps,
            evidence=each.evidence,
        )

    def line(self, each: attendance_query.Line) -> AttendanceItem:
        """One member at one meeting."""
        return AttendanceItem(
            meeting=named(each.meeting),
            kind=each.kind,
            organisation=each.organisation,
            venue=each.venue,
            starts_at=self.time(each.starts_ms),
            member=named(each.member),
            branch=each.branch,
            verdict=each.verdict,
            at=self.maybe(each.at_ms),
            taps=each.taps,
            evidence=each.evidence,
        )


def sums(found: attendance_query.Totals) -> SumsOut:
    """Sums over all that fits."""

    def one(each: attendance_query.Sum) -> SumOut:
        return SumOut(times=each.times, people=each.people)

    return SumsOut(
        all=one(found.all),
        meetings=found.meetings,
        expected=one(found.expected),
        present=one(found.present),
        by_verdict={verdict: one(each) for verdict, each in found.by.items()},
    )


def named(each: queries.Named) -> Ref:
    """An organisation or a venue."""
    return Ref(public_id=each.public_id, code=each.code, name=each.name)


def person(each: queries.Person) -> PersonOut:
    """A member."""
    return PersonOut(public_id=each.public_id, code=each.code, name=each.name, branch=each.branch)


def counts(each: queries.Counts) -> CountsOut:
    """Figures."""
    return CountsOut(
        expected=each.expected,
        present=each.present,
        late=each.late,
        excused=each.excused,
        not_seen=each.not_seen,
        pending=each.pending,
        guests=each.guests,
    )
