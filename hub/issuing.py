"""The desk station (发卡台): what its reader has just read, and whose card that becomes.

A station is whoever holds a token that may bind cards and says what its reader read. Promises: of a
card nothing is told but its last characters, and whose it is only within the asker's sub-tree; a
number that was read is forgotten when it has been used, when the station reads the next one, and
after ten minutes; whatever is said of a card follows the rules of `hub.cards`, is written down with
its author, and happens whole or not at all. What a station has bound can be undone, the last first,
for twelve hours, unless the cards were changed since. Nothing can be bound of what a station has
read whose token holds no more. To be told ELSEWHERE says that a number is some member's: it is
written down, and `Brake` bounds how many numbers a token may ask about.

Functions that write take a connection in a write transaction and leave the commit to the caller.
"""

import json
import threading
import uuid
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, insert, or_, select, update

from hub import audit, cards
from hub.auth.callers import Caller
from hub.auth.tokens import is_valid
from hub.derive import lock
from hub.domain.terms import CardState, CardStatus
from hub.domain.words import Words
from hub.store import schema as s
from hub.store.queries import Person
from hub.store.scope import NotFoundError, find_member, last_begun, within
from hub.taps import TapError, first_unmatched, last_holder, last_of, person
from protocol.credential import Credential

READING_MS: Final = 10 * 60_000
"""How long a number is kept that is not used, and a station listed that is silent."""
UNDO_MS: Final = 12 * 3600_000
BACK_MS: Final = 90 * 24 * 3600_000
"""Taps of unknown cards are looked for so far back: older ones are in no list."""

READS_A_MINUTE: Final = 60
"""Of one token; a hand takes two seconds for a card."""

_MINUTE_MS: Final = 60_000


class Brake:
    """How often each token has read within the last minute, in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: defaultdict[int, deque[int]] = defaultdict(lambda: deque(maxlen=READS_A_MINUTE))

    def lets(self, token_id: int, now_ms: int) -> bool:
        """Whether it may read another; if so, that is counted."""
        with self._lock:
            read = self._read[token_id]
            if len(read) == READS_A_MINUTE and read[0] > now_ms - _MINUTE_MS:
                return False
            read.append(now_ms)
            return True


@dataclass(frozen=True, slots=True)
class Station:
    """A station that read something within READING_MS."""

    public_id: str
    name: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Reading:
    """A card that a station read and nobody has used yet, as the asker may know it."""

    public_id: str
    station: str
    at_ms: int
    expires_ms: int
    last: str
    """The last characters of its number."""
    state: CardState
    holder: Person | None
    """Whose it is or was; None: nobody's, or not of the sub-tree."""
    holder_id: int | None
    card: str | None
    """The card's public id, where there is a holder."""
    since_ms: int | None
    """From when on it would be somebody's, so that taps count that wait; None: from now on."""


@dataclass(frozen=True, slots=True)
class Deed:
    """What a station did last, and may undo."""

    reading: str
    last: str
    holder: Person
    holder_id: int
    is_replacement: bool


def note(conn: Connection, caller: Caller, credential: Credential, now_ms: int) -> uuid.UUID:
    """A station has read a card; gives the reading's name. What it read before is forgotten."""
    if caller.token_id is None:
        raise ValueError("a station has a token")
    forget(conn, now_ms)
    d = s.desk_readings.c
    conn.execute(delete(s.desk_readings).where(d.token_id == caller.token_id, d.undo.is_(None)))
    public_id = s.new_public_id()
    conn.execute(
        insert(s.desk_readings).values(
            public_id=public_id,
            token_id=caller.token_id,
            at_ms=now_ms,
            expires_ms=now_ms + READING_MS,
            scheme=credential.scheme,
            issuer=credential.issuer,
            value=credential.value,
            last=last_of(credential.value),
        )
    )
    return public_id


def heard(conn: Connection, caller: Caller, reading: uuid.UUID, now_ms: int) -> Reading:
    """What the station is told of what it has just read; an ELSEWHERE is written down."""
    found = find(conn, caller.organisation_id, reading, now_ms)
    if found.state is CardState.ELSEWHERE:
        where = caller.organisation_id
        audit.record(conn, caller, "card.elsewhere", where, "reading", reading, now_ms)
    return found


def forget(conn: Connection, now_ms: int) -> None:
    """Delete what has expired."""
    conn.execute(delete(s.desk_readings).where(s.desk_readings.c.expires_ms <= now_ms))


def stations(conn: Connection, scope: int, now_ms: int) -> list[Station]:
    """The stations of the sub-tree that read something lately, the latest first."""
    d, t = s.desk_readings.c, s.tokens.c
    latest = func.max(d.at_ms)
    return [
        Station(str(row.public_id), row.name, row.at_ms)
        for row in conn.execute(
            select(t.public_id, t.name, latest.label("at_ms"))
            .join(s.desk_readings, d.token_id == t.id)
            .where(
                within(scope, t.organisation_id),
                is_valid(now_ms),
                d.at_ms > now_ms - READING_MS,
                d.expires_ms > now_ms,
            )
            .group_by(t.id, t.public_id, t.name)
            .order_by(latest.desc(), t.name)
        )
    ]


def read_last(conn: Connection, scope: int, station: str, now_ms: int) -> Reading | None:
    """What a station of the sub-tree has just read; None: nothing, or it was used."""
    d, t = s.desk_readings.c, s.tokens.c
    row = conn.execute(
        _readings(scope, now_ms)
        .where(t.public_id == uuid.UUID(station), d.value.is_not(None))
        .order_by(d.id.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else _told(conn, scope, row, now_ms)


def find(conn: Connection, scope: int, reading: uuid.UUID, now_ms: int) -> Reading:
    """A reading by its name. Raises NotFoundError, also of one that was used."""
    row = _find(conn, scope, reading, now_ms)
    if row.value is None:
        raise NotFoundError
    return _told(conn, scope, row, now_ms)


def is_there(conn: Connection, scope: int, reading: uuid.UUID, now_ms: int) -> bool:
    """Whether there is such a reading, used or not."""
    found = _readings(scope, now_ms).where(s.desk_readings.c.public_id == reading)
    return conn.execute(found).one_or_none() is not None


def done_last(conn: Connection, scope: int, station: str, now_ms: int) -> Deed | None:
    """What a station of the sub-tree did last; None: nothing that can be undone."""
    d, t = s.desk_readings.c, s.tokens.c
    row = conn.execute(
        _readings(scope, now_ms)
        .where(t.public_id == uuid.UUID(station), d.undo.is_not(None))
        .order_by(d.id.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    who = person(conn, scope, row.member_id, now_ms)
    if who.public_id is None:
        return None
    is_replacement = len(json.loads(row.undo)["after"]) > 1
    return Deed(str(row.public_id), row.last, who, row.member_id, is_replacement)


def bind(
    conn: Connection,
    caller: Caller,
    reading: uuid.UUID,
    member: uuid.UUID,
    now_ms: int,
    *,
    valid_from_ms: int | None = None,
    code: str = "",
    old: uuid.UUID | None = None,
    is_lost: bool = False,
) -> uuid.UUID:
    """The card that was read is the member's; gives the card. Raises TapError, NotFoundError.

    `valid_from_ms` None: from the first tap of it that waits in the sub-tree, otherwise from now.
    `old`: a card of the member that it replaces, and that ends now, as lost or not. The same again
    gives the same card and changes nothing, so that whoever got no answer may ask again.
    """
    lock(conn)
    scope = caller.organisation_id
    row = _find(conn, scope, reading, now_ms)
    holder = find_member(conn, scope, member, now_ms)
    is_same = row.undo is not None and row.member_id == holder.id
    if is_same and last_holder(conn, row.card_id, now_ms) == holder.id:
        return _public_id(conn, row.card_id)
    if row.value is None:
        raise TapError("reading", Words("刚才刷的这张卡已经办过了，请再刷一次。"))
    found = _told(conn, scope, row, now_ms)
    if found.state is CardState.ELSEWHERE:
        raise TapError("card", cards.OF_OTHERS)
    number = cards.number_of(conn, Credential(row.scheme, row.issuer, row.value))
    card_id = conn.scalar(select(s.credentials.c.card_id).where(s.credentials.c.id == number))
    before = cards.standing(conn, [] if card_id is None else [card_id])
    if old is not None:
        old_id = conn.scalar(select(s.cards.c.id).where(s.cards.c.public_id == old))
        if old_id is None or last_holder(conn, old_id, now_ms) != holder.id:
            raise NotFoundError
        if old_id == card_id:
            raise TapError("card", Words("刷的就是原来那张卡，请刷新卡。"))
        before |= cards.standing(conn, [old_id])
        if is_lost:
            cards.report_lost(conn, caller, old, now_ms, now_ms)
        else:
            cards.end_binding(conn, caller, old, now_ms, now_ms)
    from_ms = found.since_ms if valid_from_ms is None else valid_from_ms
    card = cards.bind_number(
        conn, caller, number, holder, now_ms if from_ms is None else from_ms, now_ms, code=code
    )
    made_id = conn.scalars(select(s.cards.c.id).where(s.cards.c.public_id == card)).one()
    before.setdefault(str(made_id), None)
    after = cards.standing(conn, [int(each) for each in before])
    conn.execute(
        update(s.desk_readings)
        .where(s.desk_readings.c.id == row.id)
        .values(
            value=None,
            card_id=made_id,
            member_id=holder.id,
            undo=json.dumps({"before": before, "after": after}),
            expires_ms=now_ms + UNDO_MS,
        )
    )
    return card


def undo(conn: Connection, caller: Caller, reading: uuid.UUID, now_ms: int) -> None:
    """Take back what became of a reading, the station's last. Raises TapError, NotFoundError.

    The same again changes nothing.
    """
    lock(conn)
    scope, d = caller.organisation_id, s.desk_readings.c
    row = _find(conn, scope, reading, now_ms)
    if row.value is not None:
        raise TapError("reading", Words("没有可以撤销的登记。"))
    if row.undo is None:
        return
    if conn.scalar(
        select(d.id).where(d.token_id == row.token_id, d.undo.is_not(None), d.id > row.id).limit(1)
    ):
        raise TapError("reading", Words("只能从这个发卡台最后一次登记开始撤销。"))
    public_id = conn.scalars(select(s.members.c.public_id).where(s.members.c.id == row.member_id))
    holder = find_member(conn, scope, public_id.one(), now_ms)
    # Before the card goes that it names.
    conn.execute(
        update(s.desk_readings)
        .where(d.id == row.id)
        .values(card_id=None, member_id=None, undo=None)
    )
    stood = json.loads(row.undo)
    cards.put_back(conn, caller, holder, stood["before"], stood["after"], now_ms)


# --- Helpers ------------------------------------------------------------------------------------


def _readings(scope: int, now_ms: int) -> Any:
    d, t = s.desk_readings.c, s.tokens.c
    return (
        select(s.desk_readings, t.name.label("station"))
        .join(s.tokens, t.id == d.token_id)
        .where(
            within(scope, t.organisation_id),
            d.expires_ms > now_ms,
            or_(is_valid(now_ms), d.value.is_(None)),  # what was done can be undone all the same
        )
    )


def _find(conn: Connection, scope: int, reading: uuid.UUID, now_ms: int) -> Row[Any]:
    row: Row[Any] | None = conn.execute(
        _readings(scope, now_ms).where(s.desk_readings.c.public_id == reading)
    ).one_or_none()
    if row is None:
        raise NotFoundError
    return row


def _public_id(conn: Connection, card_id: int) -> uuid.UUID:
    found = conn.scalars(select(s.cards.c.public_id).where(s.cards.c.id == card_id)).one()
    return uuid.UUID(str(found))


def _told(conn: Connection, scope: int, row: Row[Any], now_ms: int) -> Reading:
    """What the scope may know of the card that was read."""
    b, c = s.bindings.c, s.credentials.c
    number = conn.execute(
        select(c.id, s.cards.c.id.label("card_id"), s.cards.c.public_id, s.cards.c.status)
        .outerjoin(s.cards, s.cards.c.id == c.card_id)
        .where(c.scheme == row.scheme, c.issuer == row.issuer, c.value == row.value)
    ).one_or_none()
    held = None
    if number is not None and number.card_id is not None:
        held = conn.execute(
            select(s.bindings)
            .where(b.card_id == number.card_id)
            .order_by(*last_begun(now_ms))
            .limit(1)
        ).one_or_none()
    state, holder = CardState.UNKNOWN, None
    if held is not None and number is not None:
        holder = person(conn, scope, held.member_id, now_ms)
        state = _state(CardStatus(number.status), held, now_ms)
        if holder.public_id is None:
            holder = None
            state = state if state is CardState.ENDED else CardState.ELSEWHERE
    since_ms = None
    if number is not None and state in {CardState.UNKNOWN, CardState.ENDED}:
        free_ms = now_ms - BACK_MS
        if held is not None and held.valid_to_ms is not None:
            free_ms = max(free_ms, held.valid_to_ms)
        first_ms = first_unmatched(conn, scope, number.id, free_ms)
        if first_ms is not None:
            since_ms = max(first_ms // _MINUTE_MS * _MINUTE_MS, free_ms)
    return Reading(
        public_id=str(row.public_id),
        station=row.station,
        at_ms=row.at_ms,
        expires_ms=row.expires_ms,
        last=row.last,
        state=state,
        holder=holder,
        holder_id=None if holder is None or held is None else held.member_id,
        card=None if holder is None or number is None else str(number.public_id),
        since_ms=since_ms,
    )


def _state(status: CardStatus, held: Row[Any], now_ms: int) -> CardState:
    is_over = held.valid_to_ms is not None and held.valid_to_ms <= now_ms
    match status:
        case CardStatus.LOST:
            return CardState.LOST
        case CardStatus.WITHDRAWN:
            return CardState.ENDED
        case CardStatus.ACTIVE:
            return CardState.ENDED if is_over else CardState.BOUND
