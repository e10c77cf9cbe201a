"""What may be stated, asked and decided: every rule as a table."""

from zoneinfo import ZoneInfo

import pytest

from hub.days import FIRST_DAY, LAST_DAY, span_ms
from hub.domain.attendance import MINUTE_MS
from hub.domain.stating import (
    MAX_HEAD_COUNT,
    MAX_MEETING_MS,
    TIED,
    Idle,
    Person,
    Times,
    act_idle,
    answer_refused,
    back_fill_deadline_ms,
    back_fill_refused,
    head_count_refused,
    kind_refused,
    member_refused,
    move_refused,
    sheet_complete_refused,
    times_refused,
    when_refused,
    withdrawal_refused,
)
from hub.domain.terms import DeclarationKind, MeetingKind, OrgKind, Verdict

ZONE = ZoneInfo("Asia/Shanghai")
K = DeclarationKind
OPENS, STARTS, ENDS = 1000, 2000, 5000


@pytest.mark.parametrize("kind", MeetingKind)
@pytest.mark.parametrize("level", OrgKind)
def test_each_level_holds_its_own_kinds(kind: MeetingKind, level: OrgKind) -> None:
    everywhere = {MeetingKind.PARTY_LECTURE, MeetingKind.THEME_PARTY_DAY}
    own = {
        OrgKind.COMMITTEE: everywhere,
        OrgKind.GENERAL_BRANCH: set(MeetingKind) - {MeetingKind.PARTY_GROUP},
        OrgKind.BRANCH: set(MeetingKind) - {MeetingKind.PARTY_GROUP},
        OrgKind.GROUP: everywhere | {MeetingKind.PARTY_GROUP},
    }
    assert (kind_refused(kind, level) is None) == (kind in own[level])


def test_a_kind_that_is_not_held_says_by_whom() -> None:
    assert kind_refused(MeetingKind.PARTY_GROUP, OrgKind.BRANCH) == (
        "党支部不开党小组会：应由党小组召开"
    )
    assert kind_refused(MeetingKind.BRANCH_ASSEMBLY, OrgKind.GROUP) == (
        "党小组不开支部党员大会：应由党支部召开"
    )


FIRST_MS, AFTER_MS = span_ms(FIRST_DAY, LAST_DAY, ZONE)


@pytest.mark.parametrize(
    ("starts_ms", "ends_ms", "field"),
    [
        (FIRST_MS, FIRST_MS + 1, None),
        (FIRST_MS, FIRST_MS + MAX_MEETING_MS, None),
        (AFTER_MS - 1, AFTER_MS, None),
        (FIRST_MS - 1, FIRST_MS + 1, "starts"),
        (AFTER_MS, AFTER_MS + 1, "starts"),
        (FIRST_MS, FIRST_MS, "ends"),
        (FIRST_MS + 1, FIRST_MS, "ends"),
        (FIRST_MS, FIRST_MS + MAX_MEETING_MS + 1, "ends"),
    ],
)
def test_the_times_of_a_meeting(starts_ms: int, ends_ms: int, field: str | None) -> None:
    refused = times_refused(starts_ms, ends_ms, ZONE)
    assert (None if refused is None else refused[0]) == field


FROM = {
    K.HELD: OPENS,
    K.HEAD_COUNT: OPENS,
    K.WITNESSED: OPENS,
    K.SHEET: OPENS,
    K.NOT_HELD: STARTS,
    K.SHEET_COMPLETE: ENDS + 1,
    K.BACK_FILL_ASKED: ENDS + 1,
}


@pytest.mark.parametrize("kind", DeclarationKind)
@pytest.mark.parametrize("now_ms", [0, OPENS - 1, OPENS, STARTS - 1, STARTS, ENDS, ENDS + 1])
def test_each_statement_has_its_time(kind: DeclarationKind, now_ms: int) -> None:
    meeting = Times(OPENS, STARTS, ENDS, cancelled=False)
    may = now_ms >= FROM.get(kind, 0)
    assert (when_refused(kind, meeting, now_ms) is None) == may
    assert when_refused(kind, Times(OPENS, STARTS, ENDS, cancelled=True), now_ms) is not None


@pytest.mark.parametrize(
    ("known", "is_open", "has_holder", "speaks", "names_somebody", "why"),
    [
        (True, True, True, True, True, None),
        (True, True, True, True, False, Idle.NO_SUCH_MEMBER),
        (True, True, True, False, False, Idle.NO_OFFICE),
        (True, True, False, False, True, Idle.NO_HOLDER),
        (True, False, False, False, False, Idle.NO_MEETING),
        (False, False, False, False, True, Idle.OTHER_VERSION),
    ],
)
def test_why_an_act_counts_for_nothing(
    *,
    known: bool,
    is_open: bool,
    has_holder: bool,
    speaks: bool,
    names_somebody: bool,
    why: Idle | None,
) -> None:
    assert why is act_idle(
        known=known,
        is_open=is_open,
        has_holder=has_holder,
        speaks=speaks,
        names_somebody=names_somebody,
    )


HOUR_MS = 60 * MINUTE_MS
BEGUN_MS = FIRST_MS + 19 * HOUR_MS
"""19:00 of some day."""
WAS = Times(BEGUN_MS - HOUR_MS, BEGUN_MS, BEGUN_MS + HOUR_MS, cancelled=False)


def shifted(by_ms: int, *, cancelled: bool = False) -> Times:
    return Times(WAS.opens_ms + by_ms, WAS.starts_ms + by_ms, WAS.ends_ms + by_ms, cancelled)


@pytest.mark.parametrize("kind", DeclarationKind)
@pytest.mark.parametrize("days", [-7, -1, 1, 7])
@pytest.mark.parametrize("cancelled", [False, True])
def test_what_was_stated_of_one_day_does_not_move_to_another(
    kind: DeclarationKind, days: int, *, cancelled: bool
) -> None:
    now_ms = WAS.ends_ms + 30 * 24 * HOUR_MS  # whatever is refused is so for the day alone
    to = shifted(days * 24 * HOUR_MS, cancelled=cancelled)
    refused = move_refused(WAS, to, {kind}, now_ms, ZONE)
    assert (refused is not None) == (kind in TIED)
    assert move_refused(WAS, to, set(), now_ms, ZONE) is None


@pytest.mark.parametrize("kind", DeclarationKind)
@pytest.mark.parametrize("after_ms", [-1, 0, HOUR_MS - 1, HOUR_MS, 2 * HOUR_MS, 2 * HOUR_MS + 1])
def test_within_the_day_it_moves_to_where_this_could_be_stated_now(
    kind: DeclarationKind, after_ms: int
) -> None:
    to = shifted(HOUR_MS)
    now_ms = to.opens_ms + after_ms
    first_ms = {K.NOT_HELD: to.starts_ms, K.SHEET_COMPLETE: to.ends_ms + 1}.get(kind, to.opens_ms)
    refused = move_refused(WAS, to, [kind], now_ms, ZONE)
    assert (refused is not None) == (kind in TIED and now_ms < first_ms)
    assert move_refused(WAS, WAS, [kind], 0, ZONE) is None


def test_a_refused_move_names_what_to_withdraw() -> None:
    stated = [K.SHEET, K.LEAVE_GRANTED, K.HELD, K.SHEET]
    assert move_refused(WAS, shifted(24 * HOUR_MS), stated, WAS.ends_ms, ZONE) == (
        "已按原来的时间办理了“确认已召开”、“纸质签到”，不能改到别的日期或还没有到的时间。"
        "请先在“办理记录”中撤回。"
    )


@pytest.mark.parametrize(
    ("kind", "is_expected", "verdict", "may"),
    [
        (K.LEAVE_ASKED, True, None, True),
        (K.LEAVE_ASKED, True, Verdict.EXCUSED, True),
        (K.LEAVE_ASKED, True, Verdict.PRESENT, False),
        (K.LEAVE_ASKED, True, Verdict.BACK_FILLED, False),
        (K.LEAVE_ASKED, False, None, False),
        (K.LEAVE_ASKED, False, Verdict.GUEST, False),
        (K.BACK_FILL_ASKED, True, None, True),
        (K.BACK_FILL_ASKED, True, Verdict.EXCUSED, True),
        (K.BACK_FILL_ASKED, True, Verdict.LATE, False),
        (K.BACK_FILL_ASKED, True, Verdict.WITNESSED, False),
        (K.BACK_FILL_ASKED, False, None, False),
        (K.WITNESSED, True, None, True),
        (K.WITNESSED, True, Verdict.EXCUSED, True),
        (K.WITNESSED, False, None, True),
        (K.WITNESSED, True, Verdict.PRESENT, False),
        (K.WITNESSED, False, Verdict.GUEST, False),
        (K.SHEET, True, Verdict.PRESENT, True),
        (K.SHEET, False, Verdict.GUEST, True),
    ],
)
def test_of_whom_it_may_be_stated(
    kind: DeclarationKind, is_expected: bool, verdict: Verdict | None, may: bool
) -> None:
    assert (member_refused(kind, verdict, is_expected=is_expected) is None) == may


@pytest.mark.parametrize(
    ("number", "may"), [(0, True), (MAX_HEAD_COUNT, True), (-1, False), (MAX_HEAD_COUNT + 1, False)]
)
def test_a_head_count_is_a_number_of_people(number: int, may: bool) -> None:
    assert (head_count_refused(number) is None) == may


def test_a_sheet_without_a_name_is_not_complete() -> None:
    assert sheet_complete_refused(0) is not None
    assert sheet_complete_refused(1) is None


def test_the_deadline_is_the_end_of_a_local_day() -> None:
    # 23:00 in Shanghai; the days are counted there, not in UTC.
    ends_ms = span_ms(FIRST_DAY, FIRST_DAY, ZONE)[0] + 23 * 60 * MINUTE_MS
    day_ms = 24 * 60 * MINUTE_MS
    start_of_day = ends_ms - 23 * 60 * MINUTE_MS
    assert back_fill_deadline_ms(ends_ms, 0, ZONE) == start_of_day + day_ms
    assert back_fill_deadline_ms(ends_ms, 7, ZONE) == start_of_day + 8 * day_ms


@pytest.mark.parametrize(
    ("late_ms", "used", "may"),
    [(-1, 0, True), (-1, 2, True), (0, 0, False), (-1, 3, False), (-1, 4, False)],
)
def test_a_back_fill_has_a_deadline_and_a_limit(late_ms: int, used: int, may: bool) -> None:
    ends_ms = FIRST_MS
    now_ms = back_fill_deadline_ms(ends_ms, 7, ZONE) + late_ms
    refused = back_fill_refused(ends_ms, now_ms, days=7, used=used, limit=3, zone=ZONE)
    assert (refused is None) == may


def person(account: int = 0, token: int = 0, member: int = 0, name: str = "") -> Person:
    accounts, tokens, members = ({each} - {0} for each in (account, token, member))
    return Person(
        next(iter(accounts), None), frozenset(accounts), frozenset(tokens), frozenset(members), name
    )


SECRETARY, DEPUTY = person(account=1, member=10), person(account=2, member=11)


@pytest.mark.parametrize(
    ("ask", "decides", "asked", "member_id", "answered", "may"),
    [
        # 请假: the secretary may enter and grant it, but nobody their own.
        (K.LEAVE_ASKED, SECRETARY, SECRETARY, 12, False, True),
        (K.LEAVE_ASKED, SECRETARY, DEPUTY, 12, False, True),
        (K.LEAVE_ASKED, SECRETARY, SECRETARY, 10, False, False),
        (K.LEAVE_ASKED, SECRETARY, DEPUTY, 10, False, False),
        (K.LEAVE_ASKED, SECRETARY, DEPUTY, 12, True, False),
        # 补签: a second person.
        (K.BACK_FILL_ASKED, SECRETARY, DEPUTY, 12, False, True),
        (K.BACK_FILL_ASKED, SECRETARY, SECRETARY, 12, False, False),
        (K.BACK_FILL_ASKED, SECRETARY, DEPUTY, 10, False, False),
        (K.BACK_FILL_ASKED, SECRETARY, DEPUTY, 12, True, False),
        (K.BACK_FILL_ASKED, SECRETARY, person(member=12), 12, False, True),
        # The same person by another account, or by a token.
        (K.BACK_FILL_ASKED, SECRETARY, person(account=9, member=10), 12, False, False),
        (K.BACK_FILL_ASKED, SECRETARY, person(token=1, member=10), 12, False, False),
        (K.BACK_FILL_ASKED, person(token=1), person(token=1), 12, False, False),
        (K.BACK_FILL_ASKED, person(token=1), person(account=1), 12, False, True),
        (K.BACK_FILL_ASKED, person(token=1), person(), 12, False, True),
        (
            K.BACK_FILL_ASKED,
            person(token=1, name="李"),
            person(account=1, name="李 "),
            12,
            False,
            False,
        ),
        (
            K.BACK_FILL_ASKED,
            person(token=1, name="李"),
            person(account=1, name="王"),
            12,
            False,
            True,
        ),
        (K.WITNESSED, SECRETARY, DEPUTY, 12, False, False),
        (K.OBJECTION, SECRETARY, DEPUTY, 12, False, False),
    ],
)
def test_who_may_answer(
    ask: DeclarationKind,
    decides: Person,
    asked: Person,
    member_id: int,
    answered: bool,
    may: bool,
) -> None:
    refused = answer_refused(
        ask, answered=answered, decides=decides, asked=asked, member_id=member_id
    )
    assert (refused is None) == may


@pytest.mark.parametrize("kind", DeclarationKind)
def test_who_may_withdraw_what(kind: DeclarationKind) -> None:
    def may(*, stands: bool = True, answered: bool = False, as_member: bool = False) -> bool:
        refused = withdrawal_refused(kind, stands=stands, answered=answered, as_member=as_member)
        return refused is None

    objections = {K.OBJECTION, K.OBJECTION_UPHELD, K.OBJECTION_DISMISSED}
    assert may() == (kind not in {*objections, K.WITHDRAWN})
    assert may(answered=True) == may()
    of_ones_own = kind in {K.LEAVE_ASKED, K.BACK_FILL_ASKED, K.OBJECTION}
    assert may(as_member=True) == of_ones_own
    assert not may(as_member=True, answered=True)
    assert not may(stands=False)
    assert not may(stands=False, as_member=True)
