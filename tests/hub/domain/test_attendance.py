"""Which meeting a tap belongs to, and what is said of whom."""

from dataclasses import replace
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.domain.attendance import (
    MINUTE_MS,
    NO_DEVICE,
    NO_MOMENT,
    Calendar,
    CheckIn,
    CoveringDevice,
    Meeting,
    Membership,
    Reading,
    Tap,
    TapKey,
    Validity,
    check_ins,
    device_words,
    expected,
    moment,
    pending_reasons,
    read,
    verdict_without_tap,
)
from hub.domain.completeness import Completeness, Hole, Obstacle
from hub.domain.terms import Body, MeetingKind, Outcome, Verdict

CHINA = ZoneInfo("Asia/Shanghai")
START = 1_777_000_000_000 // MINUTE_MS * MINUTE_MS
HALL, ROOM = 1, 2
LI, WANG, ZHAO = 11, 12, 13


def minutes(count: float) -> int:
    return START + int(count * MINUTE_MS)


MEETING = Meeting(100, HALL, minutes(-30), minutes(0), minutes(60), 5, frozenset({LI, WANG}))


def tap(at_ms: int | None, member: int | None = LI, venue: int | None = HALL, seq: int = 1) -> Tap:
    return Tap(TapKey(1, seq), at_ms, venue, member)


@pytest.mark.parametrize(
    ("at_ms", "outcome"),
    [
        (minutes(-30) - 1, Outcome.UNPLACED),
        (minutes(-30), Outcome.COUNTED),
        (minutes(60), Outcome.COUNTED),
        (minutes(60) + 1, Outcome.UNPLACED),
    ],
)
def test_the_window_holds_both_of_its_ends_and_nothing_beyond(at_ms: int, outcome: Outcome) -> None:
    assert read(tap(at_ms), Calendar([MEETING])).outcome is outcome


@pytest.mark.parametrize(
    ("at_ms", "verdict"),
    [
        (minutes(-30), Verdict.PRESENT),
        (minutes(5), Verdict.PRESENT),
        (minutes(5) + 1, Verdict.LATE),
        (minutes(60), Verdict.LATE),
    ],
)
def test_late_begins_after_the_grace(at_ms: int, verdict: Verdict) -> None:
    assert check_ins([tap(at_ms)], Calendar([MEETING]))[100, LI].verdict is verdict


def test_one_tap_covers_every_open_meeting_that_expects_the_member() -> None:
    second = replace(MEETING, id=101, starts_ms=minutes(60), ends_ms=minutes(90))
    assert read(tap(minutes(10)), Calendar([second, MEETING])) == Reading(
        Outcome.COUNTED, (100, 101)
    )
    found = check_ins([tap(minutes(10))], Calendar([MEETING, second]))
    assert found[100, LI].verdict is Verdict.LATE
    assert found[101, LI].verdict is Verdict.PRESENT


def test_a_meeting_that_does_not_expect_the_member_is_not_attended_beside_one_that_does() -> None:
    other = replace(MEETING, id=101, expected=frozenset({ZHAO}))
    assert read(tap(minutes(0)), Calendar([other, MEETING])) == Reading(Outcome.COUNTED, (100,))


def test_whom_nobody_expects_is_a_guest_of_the_one_open_meeting() -> None:
    assert read(tap(minutes(0), ZHAO), Calendar([MEETING])) == Reading(Outcome.GUEST, (100,))
    assert (
        check_ins([tap(minutes(40), ZHAO)], Calendar([MEETING]))[100, ZHAO].verdict is Verdict.GUEST
    )


def test_whom_nobody_expects_is_unplaced_between_two_open_meetings() -> None:
    assert read(tap(minutes(0), ZHAO), Calendar([MEETING, replace(MEETING, id=101)])).outcome is (
        Outcome.UNPLACED
    )


def test_another_venue_is_another_meeting() -> None:
    assert read(tap(minutes(0), venue=ROOM), Calendar([MEETING])).outcome is Outcome.UNPLACED
    assert read(tap(minutes(0), venue=None), Calendar([MEETING])).outcome is Outcome.UNPLACED


def test_a_card_bound_to_nobody_is_unmatched_and_an_undated_tap_decides_nothing() -> None:
    assert read(tap(minutes(0), None), Calendar([MEETING])).outcome is Outcome.UNMATCHED
    assert read(tap(None), Calendar([MEETING])).outcome is Outcome.UNDATED
    assert check_ins([tap(None), tap(minutes(0), None, seq=2)], Calendar([MEETING])) == {}


def test_without_a_tap_nothing_is_concluded() -> None:
    assert verdict_without_tap(MEETING.ends_ms, MEETING.ends_ms) is Verdict.NOT_SEEN
    assert verdict_without_tap(MEETING.ends_ms, MEETING.ends_ms + 1) is Verdict.PENDING


PLACES = [
    Membership(LI, 7, Body.MEMBER, Validity(minutes(-100), None)),
    Membership(LI, 7, Body.COMMITTEE, Validity(minutes(-100), None)),
    Membership(WANG, 7, Body.MEMBER, Validity(minutes(-100), minutes(0))),
    Membership(ZHAO, 8, Body.MEMBER, Validity(minutes(-100), None)),
]


@pytest.mark.parametrize(
    ("kind", "organisation", "at", "who"),
    [
        (MeetingKind.BRANCH_ASSEMBLY, 7, -1, {LI, WANG}),
        (MeetingKind.PARTY_LECTURE, 7, -1, {LI, WANG}),
        (MeetingKind.THEME_PARTY_DAY, 7, -1, {LI, WANG}),
        (MeetingKind.PARTY_GROUP, 8, 0, {ZHAO}),
        (MeetingKind.BRANCH_COMMITTEE, 7, -1, {LI}),
        (MeetingKind.BRANCH_ASSEMBLY, 7, 0, {LI}),  # Wang left at that very moment
        (MeetingKind.BRANCH_ASSEMBLY, 7, -101, set()),
    ],
)
def test_who_is_expected(kind: MeetingKind, organisation: int, at: int, who: set[int]) -> None:
    assert expected(organisation, kind, minutes(at), PLACES) == who


@pytest.mark.parametrize("to_ms", [0, -1])
def test_a_validity_ends_after_it_begins(to_ms: int) -> None:
    with pytest.raises(ValueError, match="not after its start"):
        Validity(0, to_ms)


def test_half_open_validities_that_touch_do_not_overlap() -> None:
    assert not Validity(0, 5).overlaps(Validity(5, None))
    assert Validity(0, 6).overlaps(Validity(5, None))
    assert Validity(0, None).overlaps(Validity(99, 100))


meetings_around = st.lists(
    st.builds(
        lambda number, venue, start, length, before, grace, expected: Meeting(
            number,
            venue,
            minutes(start - before),
            minutes(start),
            minutes(start + length),
            grace,
            frozenset(expected),
        ),
        st.integers(100, 105),
        st.sampled_from([HALL, ROOM]),
        st.integers(-60, 60),
        st.integers(1, 90),
        st.integers(0, 30),
        st.integers(0, 10),
        st.sets(st.sampled_from([LI, WANG, ZHAO])),
    ),
    max_size=4,
    unique_by=lambda each: each.id,
)
taps_around = st.lists(
    st.builds(
        lambda seq, at, venue, member: tap(None if at is None else minutes(at), member, venue, seq),
        st.integers(1, 40),
        st.none() | st.integers(-100, 160),
        st.sampled_from([None, HALL, ROOM]),
        st.sampled_from([None, LI, WANG, ZHAO]),
    ),
    max_size=12,
    unique_by=lambda each: each.key,
)


@given(taps_around, meetings_around, st.data())
def test_order_and_repetition_change_nothing(
    taps: list[Tap], meetings: list[Meeting], data: st.DataObject
) -> None:
    told = data.draw(st.permutations(taps + data.draw(st.lists(st.sampled_from(taps or [tap(0)])))))
    told = [each for each in told if each in taps]
    assert check_ins(told, Calendar(data.draw(st.permutations(meetings)))) == check_ins(
        taps, Calendar(meetings)
    )


@given(taps_around, meetings_around)
def test_each_check_in_is_the_earliest_of_the_taps_that_say_it(
    taps: list[Tap], meetings: list[Meeting]
) -> None:
    shown: dict[tuple[int, int], list[Tap]] = {}
    for each in taps:
        for meeting in read(each, Calendar(meetings)).meetings:
            assert each.member_id is not None
            shown.setdefault((meeting, each.member_id), []).append(each)
    found = check_ins(taps, Calendar(meetings))
    assert found.keys() == shown.keys()
    for pair, check_in in found.items():
        assert isinstance(check_in, CheckIn)
        assert check_in.taps == len(shown[pair])
        assert check_in.at_ms == min(each.at_ms or 0 for each in shown[pair])


def device(through: int | None, obstacle: Obstacle | None = None, **more: object) -> CoveringDevice:
    known = Completeness(through, obstacle, minutes(-20))
    return CoveringDevice("3", replace(known, **more), (Validity(0, None),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("covering", "words"),
    [
        (device(minutes(72)), "设备“3”：记录完整至{72}"),
        (
            device(minutes(-20), Obstacle.MISSING),
            "设备“3”：记录只完整至{-20}，会议{60}结束（还有记录没有送到）",
        ),
        (
            device(None, Obstacle.SILENT, last_contact_ms=None),
            "设备“3”：记录是否完整尚不清楚（从未报告过记录情况）",
        ),
        (
            device(None, Obstacle.UNDATED),
            "设备“3”：记录是否完整尚不清楚，最后联系{-20}（设备时钟未经校准，说不清是什么时候）",
        ),
        (
            device(minutes(72), holes=(Hole(minutes(10), None),)),
            "设备“3”：会议期间有一段记录已损坏，读不出来",
        ),
        (device(minutes(72), holes=(Hole(minutes(61), None),)), "设备“3”：记录完整至{72}"),
    ],
)
def test_a_device_says_in_words_what_is_known_of_it(covering: CoveringDevice, words: str) -> None:
    for number in (72, 60, -20):
        words = words.replace(f"{{{number}}}", moment(minutes(number), MEETING.ends_ms, CHINA))
    said = device_words(covering, MEETING.opens_ms, MEETING.ends_ms, CHINA)
    assert said == words
    reasons = pending_reasons(MEETING.opens_ms, MEETING.ends_ms, [covering], CHINA)
    assert (said in reasons) is not covering.completeness.covers(MEETING.opens_ms, MEETING.ends_ms)


def test_pending_is_never_without_a_reason() -> None:
    assert (
        len(pending_reasons(MEETING.opens_ms, MEETING.ends_ms, [device(minutes(72))], CHINA)) == 2
    )
    assert NO_DEVICE in pending_reasons(MEETING.opens_ms, MEETING.ends_ms, [], CHINA)


@pytest.mark.parametrize(
    ("stood", "words"),
    [
        ([(None, None)], []),
        ([(-31, 61)], []),
        ([(-30, 60)], ["{60}后会场没有登记的签到设备"]),
        ([(0, None)], ["{0}前会场没有登记的签到设备"]),
        ([(None, 0)], ["{0}后会场没有登记的签到设备"]),
        # One carried away, another brought; first with, then without a time in between.
        ([(10, None), (None, 10)], []),
        ([(None, 9), (10, None)], ["{9}至{10}会场没有登记的签到设备"]),
        (
            [(20, 21), (-10, 40), (41, 42)],
            [
                "{-10}前会场没有登记的签到设备",
                "{40}至{41}会场没有登记的签到设备",
                "{42}后会场没有登记的签到设备",
            ],
        ),
        ([(-40, None), (-40, 50)], []),
        ([(None, -30)], [NO_DEVICE]),
        ([(61, None)], [NO_DEVICE]),
    ],
)
def test_devices_that_were_there_for_a_part_of_it_leave_the_rest_open(
    stood: list[tuple[int | None, int | None]], words: list[str]
) -> None:
    covering = [
        replace(
            device(minutes(72)),
            stood=(
                Validity(
                    0 if since is None else minutes(since), None if to is None else minutes(to)
                ),
            ),
        )
        for since, to in stood
    ]
    for number in (-10, 0, 9, 10, 40, 41, 42, 60):
        at = moment(minutes(number), MEETING.ends_ms, CHINA)
        words = [each.replace(f"{{{number}}}", at) for each in words]
    reasons = pending_reasons(MEETING.opens_ms, MEETING.ends_ms, covering, CHINA)
    assert list(reasons[:-2]) == words


@pytest.mark.parametrize("at", [1 << 62, -(1 << 62), 1 << 48, 1 << 100])
def test_a_moment_that_no_calendar_holds_has_words(at: int) -> None:
    assert moment(at, 0, CHINA) == NO_MOMENT
    assert moment(0, at, CHINA) == NO_MOMENT


def test_a_moment_names_its_day_where_it_is_another() -> None:
    midnight = 1_767_196_800_000  # 2026-01-01 00:00 in China
    assert moment(midnight, midnight, CHINA) == "00:00"
    assert moment(midnight - 60_000, midnight, CHINA) == "2025年12月31日23:59"
    assert moment(midnight + 86_400_000, midnight, CHINA) == "1月2日00:00"


@given(meetings_around, st.sampled_from([HALL, ROOM]), st.integers(-100, 160))
def test_a_calendar_finds_every_open_meeting(meetings: list[Meeting], venue: int, at: int) -> None:
    found = {each.id for each in Calendar(meetings).open_at(venue, minutes(at))}
    assert found == {
        each.id for each in meetings if each.venue_id == venue and each.is_open(minutes(at))
    }
