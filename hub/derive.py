"""From facts, registers and declarations to `readings` and `attendances`.

Promises: what was maintained step by step equals what a rebuild gives; taking the same facts twice
changes nothing; the position (which batches were taken) is written in the transaction of its
effects, which the caller begins and commits. A device's clock that becomes known dates the earlier
taps of the same boot anew.

Whoever changes a register or adds a declaration calls the narrowest of `rederive_*` in the same
transaction, or `rebuild`.

It decides nothing itself: that is `hub.domain.attendance` and `hub.domain.declared`. It deletes no
fact.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    not_,
    select,
    text,
    tuple_,
    union,
    update,
)

from hub.domain.attendance import (
    Calendar,
    CheckIn,
    Meeting,
    Membership,
    Tap,
    TapKey,
    Validity,
    check_ins,
    expected,
    read,
)
from hub.domain.declared import (
    AssignedTap,
    Attendance,
    Stated,
    conclude,
)
from hub.domain.terms import Body, MeetingKind, Outcome, Verdict
from hub.store import schema as s
from hub.store.bulk import chunks, insert_rows
from hub.store.clocks import (
    SAME_EPOCH,
    Boot,
    believed,
    date_by,
    is_believed,
    not_before,
    samples_of,
    undated,
)
from hub.store.stated import fits, organisations_of, stated_of
from protocol.journal import KIND_ACTION, KIND_TAP
from protocol.timekeeping import Dated, Sample

STEP: Final = 25
"""Batches a step: no more than some 10,000 taps, for whose time ingest waits."""

_REBUILD_TAPS: Final = 20_000
_LOCK: Final = 0x64657269  # an arbitrary key for PostgreSQL's advisory lock
_REPORTED: Final = 100


@dataclass(frozen=True, slots=True)
class Step:
    """What one step took and touched; nothing left to take is `Step(0, 0, 0, ())`."""

    batches: int
    heartbeats: int
    readings: int
    """Taps read for the first time, or differently than before."""
    meetings: tuple[int, ...]
    """Ids of the meetings whose `change` has grown."""


def derive_batch(conn: Connection, limit: int = STEP) -> Step:
    """Take up to `limit` batches and heartbeats that are not derived yet, oldest first.

    Call it again until the step is empty. `conn` is in a write transaction.
    """
    lock(conn)
    batch_ids = conn.scalars(
        select(s.batches.c.id).where(text("NOT derived")).order_by(s.batches.c.id).limit(limit)
    ).all()
    heartbeat_ids = conn.scalars(
        select(s.heartbeats.c.id)
        .where(text("NOT derived"))
        .order_by(s.heartbeats.c.id)
        .limit(limit)
    ).all()
    if not batch_ids and not heartbeat_ids:
        return Step(0, 0, 0, ())
    spans = _spans(conn, batch_ids)
    rows = {
        (row.epoch_id, row.seq): row
        for taps in (
            _taps_in(conn, spans),
            _taps_dated_by(conn, spans, batch_ids, heartbeat_ids),
            _undated_taps_after(conn, spans, heartbeat_ids),
        )
        for row in taps
    }
    changed, meetings = _derive(conn, list(rows.values()))
    for table, ids in ((s.batches, batch_ids), (s.heartbeats, heartbeat_ids)):
        for part in chunks(ids):
            conn.execute(update(table).where(table.c.id.in_(part)).values(derived=True))
    _tell(conn, meetings)
    return Step(len(batch_ids), len(heartbeat_ids), changed, tuple(sorted(meetings)))


def rederive_meetings(conn: Connection, meeting_ids: Iterable[int]) -> None:
    """After something was stated of these meetings. `conn` is in a write transaction."""
    lock(conn)
    asked = set(meeting_ids)
    asked |= _sharing_taps_with(conn, asked)
    _write_attendances(conn, sorted(asked), _calendar(conn, asked))
    _tell(conn, asked)


def rederive_windows(
    conn: Connection, windows: Iterable[tuple[int, int, int]], meeting_ids: Iterable[int]
) -> None:
    """After meetings began, moved or were cancelled, or expect others than before.

    `windows` are (venue id, from, to), both ends included: those that the meetings had and have.
    """
    lock(conn)
    r = s.readings.c
    rows: dict[tuple[int, int], Row[Any]] = {}
    for venue_id, from_ms, to_ms in windows:
        for row in conn.execute(
            _TAPS.where(r.venue_id == venue_id, r.at_ms.between(from_ms, to_ms))
        ).all():
            rows[row.epoch_id, row.seq] = row
    _, touched = _derive(conn, list(rows.values()), again=True, meeting_ids=meeting_ids)
    _tell(conn, touched)


def rederive_credentials(conn: Connection, credential_ids: Iterable[int]) -> None:
    """After these credentials came to belong to other members, or from another time on."""
    _rederive(conn, s.entries.c.credential_id, credential_ids)


def rederive_devices(conn: Connection, device_ids: Iterable[int]) -> None:
    """After these devices were placed otherwise, or other facts of them count, than before."""
    _rederive(conn, s.epochs.c.device_id, device_ids)


def _rederive(conn: Connection, column: ColumnElement[Any], ids: Iterable[int]) -> None:
    lock(conn)
    rows = [
        row
        for part in chunks(sorted(set(ids)))
        for row in conn.execute(_TAPS.where(column.in_(part))).all()
    ]
    # A tap without a time reads the same whoever holds the card; the meeting that it was assigned
    # to does not.
    undated_taps = [TapKey(row.epoch_id, row.seq) for row in rows if row.at_ms is None]
    _, touched = _derive(conn, rows, meeting_ids=_assigned_to(conn, undated_taps))
    _tell(conn, touched)


def _tell(conn: Connection, meeting_ids: Iterable[int]) -> None:
    """Let live pages know that these meetings may read differently."""
    for part in chunks(sorted(set(meeting_ids))):
        conn.execute(
            update(s.meetings)
            .where(s.meetings.c.id.in_(part))
            .values(change=s.meetings.c.change + 1)
        )


def rebuild(conn: Connection) -> int:
    """Derive everything from nothing; gives the number of taps. `conn` is in a write transaction.

    Also what follows a change of registers: every meeting's `change` grows.
    """
    lock(conn)
    # Before anything is read: what ingest commits from now on stays to be derived.
    conn.execute(update(s.batches).where(text("NOT derived")).values(derived=True))
    conn.execute(update(s.heartbeats).where(text("NOT derived")).values(derived=True))
    conn.execute(delete(s.readings))
    conn.execute(delete(s.attendances))
    taps = 0
    last = (0, -1)
    while True:
        rows = conn.execute(
            _TAPS.where(tuple_(s.entries.c.epoch_id, s.entries.c.seq) > last)
            .order_by(s.entries.c.epoch_id, s.entries.c.seq)
            .limit(_REBUILD_TAPS)
        ).all()
        if not rows:
            break
        last = (rows[-1].epoch_id, rows[-1].seq)
        taps += len(rows)
        _read_taps(conn, rows)
    for part in chunks(conn.scalars(select(s.meetings.c.id).order_by(s.meetings.c.id)).all()):
        _write_attendances(conn, part, _calendar(conn, part))
    conn.execute(update(s.meetings).values(change=s.meetings.c.change + 1))
    return taps


def rebuild_check(conn: Connection) -> list[str]:
    """What a rebuild would change, a line each (the first hundred of each table); changes nothing.

    Batches that wait to be derived are not a difference. `conn` is in a write transaction.
    """
    differences: list[str] = []
    savepoint = conn.begin_nested()
    while derive_batch(conn) != Step(0, 0, 0, ()):
        pass
    for table in (s.readings, s.attendances):
        copied = f"SELECT * FROM {table.name}"  # noqa: S608 - a name of our own
        conn.execute(text(f"CREATE TEMPORARY TABLE kept_{table.name} AS {copied}"))
    rebuild(conn)
    for table in (s.readings, s.attendances):
        kept, now = f"SELECT * FROM kept_{table.name}", f"SELECT * FROM {table.name}"  # noqa: S608
        for sign, query in (("-", f"{kept} EXCEPT {now}"), ("+", f"{now} EXCEPT {kept}")):
            differences += [
                f"{sign} {table.name} {tuple(row)}"
                for row in conn.execute(text(f"{query} LIMIT {_REPORTED}"))
            ]
    savepoint.rollback()
    return differences


def lock(conn: Connection) -> None:
    """Let no other transaction derive, or change the registers, until this one has ended."""
    if conn.dialect.name == "postgresql":
        conn.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def try_lock(conn: Connection) -> bool:
    """`lock`, if no other transaction has it now; whether it was to be had."""
    if conn.dialect.name == "postgresql":
        return bool(conn.scalar(select(func.pg_try_advisory_xact_lock(_LOCK))))
    return True


# --- Loading --------------------------------------------------------------------------------

# A tap with its boot, and its reading as it stands. The card of an act was at the reader too.
_TAPS: Final[Select[Any]] = (
    select(
        s.entries.c.epoch_id,
        s.entries.c.seq,
        s.entries.c.boottime_ms,
        s.entries.c.wall_ms,
        s.entries.c.trusted,
        s.entries.c.credential_id,
        s.epochs.c.device_id,
        s.epochs.c.boot_id,
        s.batches.c.received_ms,
        s.batches.c.held,
        s.readings.c.at_ms,
        s.readings.c.earliest_ms,
        s.readings.c.latest_ms,
        s.readings.c.venue_id,
        s.readings.c.member_id,
        s.readings.c.outcome,
    )
    .select_from(s.entries)
    .join(s.epochs, s.epochs.c.id == s.entries.c.epoch_id)
    .join(s.batches, s.batches.c.id == s.entries.c.batch_id)
    .outerjoin(
        s.readings,
        and_(s.readings.c.epoch_id == s.entries.c.epoch_id, s.readings.c.seq == s.entries.c.seq),
    )
    .where(s.entries.c.kind.in_([KIND_TAP, KIND_ACTION]), s.entries.c.problem.is_(None))
)


def _spans(conn: Connection, batch_ids: Sequence[int]) -> list[tuple[int, int, int]]:
    """The batches' entries as (epoch's id, first, last), in order and without overlaps.

    Not by `batch_id`: an entry that several batches brought belongs to the first of them.
    """
    b = s.batches.c
    spans: list[tuple[int, int, int]] = []
    for epoch_id, first, last in conn.execute(
        select(b.epoch_id, b.first, b.last).where(b.id.in_(batch_ids)).order_by(b.epoch_id, b.first)
    ).all():
        if spans and spans[-1][0] == epoch_id and first <= spans[-1][2] + 1:
            spans[-1] = (epoch_id, spans[-1][1], max(spans[-1][2], last))
        else:
            spans.append((epoch_id, first, last))
    return spans


def _taps_in(conn: Connection, spans: Sequence[tuple[int, int, int]]) -> Iterator[Row[Any]]:
    # Not by a join: a planner without statistics reads the whole epoch for each batch.
    for epoch_id, first, last in spans:
        yield from conn.execute(
            _TAPS.where(s.entries.c.epoch_id == epoch_id, s.entries.c.seq.between(first, last))
        ).all()


def _taps_dated_by(
    conn: Connection,
    spans: Sequence[tuple[int, int, int]],
    batch_ids: Sequence[int],
    heartbeat_ids: Sequence[int],
) -> Iterator[Row[Any]]:
    """The untrusted taps that trusted readings among these batches and heartbeats may date anew."""
    e, h = s.epochs.c, s.heartbeats.c
    boots = {
        row.id: (row.device_id, row.boot_id)
        for row in conn.execute(
            select(e.id, e.device_id, e.boot_id).where(e.id.in_(_epochs_of(spans, heartbeat_ids)))
        )
    }
    # Mostly there are none, and nothing more is asked.
    waiting: dict[Boot, list[int]] = defaultdict(list)
    for part in chunks(sorted(set(boots.values())), 400):
        for row in conn.execute(
            select(e.id, e.device_id, e.boot_id).where(
                tuple_(e.device_id, e.boot_id).in_(part),
                exists().where(s.entries.c.epoch_id == e.id, text("NOT entries.trusted")),
            )
        ):
            waiting[row.device_id, row.boot_id].append(row.id)
    if not waiting:
        return
    seen: dict[Boot, list[int]] = defaultdict(list)
    for epoch_id, first, last in spans:
        if boots[epoch_id] in waiting:
            seen[boots[epoch_id]] += conn.scalars(
                select(s.entries.c.boottime_ms).where(
                    s.entries.c.epoch_id == epoch_id,
                    s.entries.c.seq.between(first, last),
                    s.entries.c.trusted,
                )
            )
    for row in conn.execute(
        select(e.device_id, e.boot_id, h.boottime_ms)
        .join(s.heartbeats, SAME_EPOCH)
        .where(h.id.in_(heartbeat_ids), h.trusted)
    ):
        seen[row.device_id, row.boot_id].append(row.boottime_ms)
    # An epoch's opening counts with its first batch.
    for row in conn.execute(
        select(e.device_id, e.boot_id, e.opened_boottime_ms)
        .join(s.batches, s.batches.c.epoch_id == e.id)
        .where(e.opened_trusted, e.id.in_({epoch_id for epoch_id, *_ in spans}))
        .group_by(e.id)
        .having(func.min(s.batches.c.id).in_(batch_ids))
    ):
        seen[row.device_id, row.boot_id].append(row.opened_boottime_ms)
    for boot, epoch_ids in waiting.items():
        if seen[boot]:
            yield from _untrusted_taps(conn, boot, epoch_ids, min(seen[boot]), max(seen[boot]))


def _untrusted_taps(
    conn: Connection, boot: Boot, epoch_ids: Sequence[int], low: int, high: int
) -> Iterator[Row[Any]]:
    """Those that may be nearest to a reading from `low` to `high`, by the heartbeats around it."""
    h = s.heartbeats.c
    others = (
        select(h.boottime_ms)
        .join(s.epochs, SAME_EPOCH)
        .where(
            s.epochs.c.device_id == boot[0],
            s.epochs.c.boot_id == boot[1],
            h.trusted,
            is_believed(h.wall_ms, h.received_ms),
        )
    )
    below = conn.scalar(others.where(h.boottime_ms < low).order_by(h.boottime_ms.desc()).limit(1))
    above = conn.scalar(others.where(h.boottime_ms > high).order_by(h.boottime_ms).limit(1))
    boottime = s.entries.c.boottime_ms
    for part in chunks(epoch_ids):
        yield from conn.execute(
            _TAPS.where(
                text("NOT entries.trusted"),
                s.entries.c.epoch_id.in_(part),
                *([] if below is None else [boottime >= below]),
                *([] if above is None else [boottime <= above]),
            )
        ).all()


def _undated_taps_after(
    conn: Connection, spans: Sequence[tuple[int, int, int]], heartbeat_ids: Sequence[int]
) -> Iterator[Row[Any]]:
    """The undated taps of the epochs that follow these: what bounds them may have grown."""
    later, r = s.epochs.alias("later"), s.readings.c
    following = conn.scalars(
        select(later.c.id)
        .join(
            s.epochs,
            and_(
                later.c.device_id == s.epochs.c.device_id,
                later.c.parent_epoch == s.epochs.c.epoch,
            ),
        )
        .where(s.epochs.c.id.in_(_epochs_of(spans, heartbeat_ids)))
    ).all()
    for part in chunks(following):
        keys = conn.execute(
            select(r.epoch_id, r.seq).where(r.at_ms.is_(None), r.epoch_id.in_(part))
        ).all()
        for some in chunks([tuple(key) for key in keys], 400):
            yield from conn.execute(
                _TAPS.where(tuple_(s.entries.c.epoch_id, s.entries.c.seq).in_(some))
            ).all()


def _epochs_of(
    spans: Sequence[tuple[int, int, int]], heartbeat_ids: Sequence[int]
) -> CompoundSelect[Any]:
    """Ids of the epochs of batches, and of those of which a heartbeat brings a trusted reading."""
    return union(
        select(s.epochs.c.id).where(s.epochs.c.id.in_({epoch_id for epoch_id, *_ in spans})),
        select(s.epochs.c.id)
        .join(s.heartbeats, SAME_EPOCH)
        .where(s.heartbeats.c.id.in_(heartbeat_ids), s.heartbeats.c.trusted),
    )


def _samples(conn: Connection, rows: Sequence[Row[Any]]) -> dict[Boot, list[Sample]]:
    """What can date the untrusted taps among `rows`."""
    return samples_of(
        conn, (((row.device_id, row.boot_id), row.boottime_ms) for row in rows if not row.trusted)
    )


def _date(
    row: Row[Any], samples: Mapping[Boot, Sequence[Sample]], bounds: Mapping[int, int | None]
) -> Dated:
    earliest_ms = bounds[row.epoch_id]
    if not row.trusted:
        boot = (row.device_id, row.boot_id)
        return date_by(samples.get(boot, ()), row.boottime_ms, earliest_ms, row.received_ms)
    if believed(row.wall_ms, row.received_ms):
        return Dated(row.wall_ms, row.wall_ms)
    return undated(earliest_ms, row.received_ms)


class _Dated:
    """Which id held at a moment, of validities that never overlap."""

    def __init__(self) -> None:
        self._held: dict[int, list[tuple[Validity, int]]] = defaultdict(list)

    def add(self, key: int, value: int, from_ms: int, to_ms: int | None) -> None:
        self._held[key].append((Validity(from_ms, to_ms), value))

    def at(self, key: int, at_ms: int) -> int | None:
        for validity, value in self._held.get(key, ()):
            if validity.holds(at_ms):
                return value
        return None


def _places(conn: Connection, device_ids: Iterable[int]) -> _Dated:
    """Venue by device."""
    held = _Dated()
    p = s.placements.c
    for part in chunks(sorted(set(device_ids))):
        for row in conn.execute(
            select(p.device_id, p.venue_id, p.valid_from_ms, p.valid_to_ms).where(
                p.device_id.in_(part)
            )
        ):
            held.add(*row)
    return held


def _holders(conn: Connection, credential_ids: Iterable[int]) -> _Dated:
    """Member by credential."""
    held = _Dated()
    b = s.bindings.c
    for part in chunks(sorted(set(credential_ids))):
        for row in conn.execute(
            select(s.credentials.c.id, b.member_id, b.valid_from_ms, b.valid_to_ms)
            .join(s.bindings, b.card_id == s.credentials.c.card_id)
            .where(s.credentials.c.id.in_(part))
        ):
            held.add(*row)
    return held


def _touched(conn: Connection, points: Iterable[tuple[int, int]]) -> set[int]:
    """The ids of the meetings that are open at one of `points`, each (venue id, time)."""
    by_venue: dict[int, list[int]] = defaultdict(list)
    for venue_id, at_ms in points:
        by_venue[venue_id].append(at_ms)
    for times in by_venue.values():
        times.sort()
    m = s.meetings.c
    found: set[int] = set()
    for part in chunks(sorted(by_venue)):
        for row in conn.execute(
            select(m.id, m.venue_id, m.opens_ms, m.ends_ms).where(
                not_(m.cancelled),
                m.venue_id.in_(part),
                m.opens_ms <= max(by_venue[each][-1] for each in part),
                m.ends_ms >= min(by_venue[each][0] for each in part),
            )
        ):
            times = by_venue[row.venue_id]
            first = bisect_left(times, row.opens_ms)
            if first < len(times) and times[first] <= row.ends_ms:
                found.add(row.id)
    return found


def _calendar(conn: Connection, meeting_ids: Iterable[int]) -> Calendar:
    """These meetings, and all that overlap them at their venue; with whoever is expected."""
    asked, m = s.meetings.alias("asked"), s.meetings.c
    rows: dict[int, Any] = {}
    for part in chunks(sorted(meeting_ids)):
        for row in conn.execute(
            select(
                m.id,
                m.organisation_id,
                m.kind,
                m.venue_id,
                m.opens_ms,
                m.starts_ms,
                m.ends_ms,
                m.grace_minutes,
            )
            .join(
                asked,
                and_(
                    asked.c.venue_id == m.venue_id,
                    asked.c.opens_ms <= m.ends_ms,
                    asked.c.ends_ms >= m.opens_ms,
                ),
            )
            .where(asked.c.id.in_(part), not_(m.cancelled), not_(asked.c.cancelled))
            .distinct()
        ):
            rows[row.id] = row
    taking_part = organisations_of(conn, rows)
    places = memberships(conn, {each for several in taking_part.values() for each in several})
    return Calendar(
        Meeting(
            row.id,
            row.venue_id,
            row.opens_ms,
            row.starts_ms,
            row.ends_ms,
            row.grace_minutes,
            frozenset().union(
                *(
                    expected(each, MeetingKind(row.kind), row.starts_ms, places.get(each, ()))
                    for each in taking_part[row.id]
                )
            ),
        )
        for row in rows.values()
    )


def memberships(conn: Connection, organisation_ids: Iterable[int]) -> dict[int, list[Membership]]:
    """All memberships ever, by organisation."""
    found: dict[int, list[Membership]] = defaultdict(list)
    m = s.memberships.c
    for part in chunks(sorted(set(organisation_ids))):
        for row in conn.execute(
            select(m.member_id, m.organisation_id, m.body, m.valid_from_ms, m.valid_to_ms).where(
                m.organisation_id.in_(part)
            )
        ):
            found[row.organisation_id].append(
                Membership(
                    row.member_id,
                    row.organisation_id,
                    Body(row.body),
                    Validity(row.valid_from_ms, row.valid_to_ms),
                )
            )
    return found


# --- Deriving -------------------------------------------------------------------------------


def _derive(
    conn: Connection,
    rows: Sequence[Row[Any]],
    *,
    again: bool = False,
    meeting_ids: Iterable[int] = (),
) -> tuple[int, set[int]]:
    """Read the taps, and work out anew the attendance of every meeting this touches.

    `again`: also those of which nothing but the meetings around them has changed.
    """
    changed, touched = _read_taps(conn, rows, again=again)
    touched |= set(meeting_ids)
    _write_attendances(conn, sorted(touched), _calendar(conn, touched))
    return changed, touched


def _read_taps(
    conn: Connection, rows: Sequence[Row[Any]], *, again: bool = False
) -> tuple[int, set[int]]:
    """Write the readings of `rows` that are new or differ; give their number and the meetings."""
    samples = _samples(conn, rows)
    bounds = not_before(conn, (row.epoch_id for row in rows))
    places = _places(conn, (row.device_id for row in rows))
    holders = _holders(conn, (row.credential_id for row in rows if row.credential_id is not None))
    taps: list[tuple[Row[Any], Dated, Tap]] = []
    points: set[tuple[int, int]] = set()
    withheld = [row for row in rows if row.held and row.outcome is not None]
    points |= {
        (row.venue_id, row.at_ms) for row in withheld if None not in (row.venue_id, row.at_ms)
    }
    for row in rows:
        if row.held:
            continue
        dated = _date(row, samples, bounds)
        at_ms = dated.earliest_ms if dated.exact else None
        tap = Tap(
            TapKey(row.epoch_id, row.seq),
            at_ms,
            None if at_ms is None else places.at(row.device_id, at_ms),
            None
            if at_ms is None or row.credential_id is None
            else holders.at(row.credential_id, at_ms),
        )
        if (
            not again
            and row.outcome is not None
            and (
                (row.at_ms, row.earliest_ms, row.latest_ms, row.venue_id, row.member_id)
                == (at_ms, dated.earliest_ms, dated.latest_ms, tap.venue_id, tap.member_id)
            )
        ):
            continue
        taps.append((row, dated, tap))
        for venue_id, moment in ((tap.venue_id, tap.at_ms), (row.venue_id, row.at_ms)):
            if venue_id is not None and moment is not None:
                points.add((venue_id, moment))
    keys = [TapKey(row.epoch_id, row.seq) for row in withheld]
    touched = _touched(conn, points) | _assigned_to(conn, [*keys, *(tap.key for _, _, tap in taps)])
    calendar = _calendar(conn, touched)
    known = [*withheld, *(row for row, _, _ in taps if row.outcome is not None)]
    if known:
        conn.execute(
            delete(s.readings).where(
                s.readings.c.epoch_id == bindparam("at_epoch"),
                s.readings.c.seq == bindparam("at_seq"),
            ),
            [{"at_epoch": row.epoch_id, "at_seq": row.seq} for row in known],
        )
    insert_rows(
        conn,
        s.readings,
        [
            {
                "epoch_id": tap.key.epoch_id,
                "seq": tap.key.seq,
                "at_ms": tap.at_ms,
                "earliest_ms": dated.earliest_ms,
                "latest_ms": dated.latest_ms,
                "venue_id": tap.venue_id,
                "member_id": tap.member_id,
                "outcome": read(tap, calendar).outcome.value,
            }
            for _, dated, tap in taps
        ],
    )
    return len(taps) + len(withheld), touched


def _write_attendances(conn: Connection, meeting_ids: Sequence[int], calendar: Calendar) -> None:
    """Make the attendances of these meetings what readings and declarations say.

    `calendar` covers the meetings, but for those that are cancelled.
    """
    for part in chunks(meeting_ids):
        held = [each for each in part if each in calendar]
        shown: dict[int, dict[int, CheckIn]] = defaultdict(dict)
        for (meeting_id, member_id), check_in in check_ins(_taps_at(conn, part), calendar).items():
            shown[meeting_id][member_id] = check_in
        stated = stated_of(conn, held)
        assigned = _assigned_taps(conn, stated, calendar)
        now = {
            (each.meeting_id, each.member_id): each
            for meeting_id in held
            for each in conclude(
                calendar.meeting(meeting_id),
                shown[meeting_id],
                stated[meeting_id],
                assigned[meeting_id],
            ).values()
        }
        kept = {
            (row.meeting_id, row.member_id): Attendance(
                row.meeting_id,
                row.member_id,
                Verdict(row.verdict),
                row.at_ms,
                None if row.epoch_id is None else TapKey(row.epoch_id, row.seq),
                row.declaration_id,
                row.taps,
            )
            for row in conn.execute(
                select(s.attendances).where(s.attendances.c.meeting_id.in_(part))
            )
        }
        gone = [pair for pair, each in kept.items() if now.get(pair) != each]
        if gone:
            conn.execute(
                delete(s.attendances).where(
                    s.attendances.c.meeting_id == bindparam("of_meeting"),
                    s.attendances.c.member_id == bindparam("of_member"),
                ),
                [{"of_meeting": meeting, "of_member": member} for meeting, member in gone],
            )
        insert_rows(
            conn,
            s.attendances,
            [
                {
                    "meeting_id": each.meeting_id,
                    "member_id": each.member_id,
                    "verdict": each.verdict.value,
                    "at_ms": each.at_ms,
                    "epoch_id": None if each.key is None else each.key.epoch_id,
                    "seq": None if each.key is None else each.key.seq,
                    "declaration_id": each.declaration_id,
                    "taps": each.taps,
                }
                for pair, each in now.items()
                if kept.get(pair) != each
            ],
        )


# --- Taps that were assigned ---------------------------------------------------------------


def _assigned_to(conn: Connection, keys: Sequence[TapKey]) -> set[int]:
    """The meetings to which one of these entries was assigned by somebody."""
    d = s.declarations.c
    by_epoch: dict[int, list[int]] = defaultdict(list)
    for key in keys:
        by_epoch[key.epoch_id].append(key.seq)
    found: set[int] = set()
    for part in chunks(sorted(by_epoch)):
        # Few taps were ever assigned, and they have an index of their own.
        for row in conn.execute(
            select(d.meeting_id, d.epoch_id, d.seq).where(
                d.epoch_id.is_not(None), d.epoch_id.in_(part)
            )
        ):
            if row.seq in by_epoch[row.epoch_id]:
                found.add(row.meeting_id)
    return found


def _assigned_taps(
    conn: Connection, stated: Mapping[int, Stated], calendar: Calendar
) -> dict[int, dict[TapKey, AssignedTap]]:
    """By meeting: the entries that were assigned to it, as far as what is known of them still fits.

    An undated one is its holder's at the meeting's start.
    """
    r, e, d, m = s.readings.c, s.entries.c, s.declarations.c, s.meetings.c
    ids = sorted(each for said in stated.values() for each in said.assigned.values())
    rows = [
        row
        for part in chunks(ids)
        for row in conn.execute(
            select(
                d.meeting_id,
                r.epoch_id,
                r.seq,
                r.at_ms,
                r.venue_id,
                r.member_id,
                e.credential_id,
            )
            .select_from(s.declarations)
            .join(s.readings, and_(r.epoch_id == d.epoch_id, r.seq == d.seq))
            .join(s.entries, and_(e.epoch_id == r.epoch_id, e.seq == r.seq))
            .join(s.meetings, m.id == d.meeting_id)
            .where(d.id.in_(part), fits())
        )
    ]
    undated = (row.credential_id for row in rows if row.at_ms is None)
    holders = _holders(conn, (each for each in undated if each is not None))
    found: dict[int, dict[TapKey, AssignedTap]] = defaultdict(dict)
    for row in rows:
        meeting = calendar.meeting(row.meeting_id)
        member_id = row.member_id
        if row.at_ms is None and row.credential_id is not None:
            member_id = holders.at(row.credential_id, meeting.starts_ms)
        if member_id is not None:
            counts = (
                row.at_ms is not None
                and row.venue_id == meeting.venue_id
                and meeting.is_open(row.at_ms)
            )
            key = TapKey(row.epoch_id, row.seq)
            found[row.meeting_id][key] = AssignedTap(member_id, row.at_ms, counts)
    return found


def _sharing_taps_with(conn: Connection, meeting_ids: Iterable[int]) -> set[int]:
    """The meetings to which a tap was assigned that was assigned to one of these too."""
    d, other = s.declarations.c, s.declarations.alias("other")
    found: set[int] = set()
    for part in chunks(sorted(set(meeting_ids))):
        found |= set(
            conn.scalars(
                select(other.c.meeting_id)
                .join(s.declarations, and_(d.epoch_id == other.c.epoch_id, d.seq == other.c.seq))
                .where(d.meeting_id.in_(part), d.epoch_id.is_not(None))
                .distinct()
            )
        )
    return found


def _taps_at(conn: Connection, meeting_ids: Sequence[int]) -> Iterator[Tap]:
    r, m = s.readings.c, s.meetings.c
    rows = conn.execute(
        select(r.epoch_id, r.seq, r.at_ms, r.venue_id, r.member_id)
        .join(
            s.meetings,
            and_(m.venue_id == r.venue_id, r.at_ms.between(m.opens_ms, m.ends_ms)),
        )
        .where(
            m.id.in_(meeting_ids),
            not_(m.cancelled),
            r.outcome.in_([Outcome.COUNTED.value, Outcome.GUEST.value]),
        )
    ).all()
    for row in rows:
        yield Tap(TapKey(row.epoch_id, row.seq), row.at_ms, row.venue_id, row.member_id)
