"""Whose card it is: binding, ending, lost and found.

Promises: two validities of one card never overlap, and a number has one card; the taps of a card
are read anew in the transaction that says whose it is, so that the order in which people say
things makes no difference. Whoever is not of the caller's sub-tree can be given no card, and
nobody's card be taken from them.

A card that is or was somebody's is never deleted, and its number is told to nobody but by its last
characters.
"""

import re
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, exists, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from hub import audit
from hub.auth.callers import Caller
from hub.derive import lock, rederive_credentials
from hub.domain.terms import CardStatus, OrgKind, Outcome
from hub.domain.words import Words
from hub.store import schema as s
from hub.store.expected import IS_EXPECTED, holds
from hub.store.queries import Person
from hub.store.scope import NotFoundError, find_card, find_member, last_begun, within
from hub.taps import MAX_SUGGESTED, FoundTap, TapError, find_tap, last_holder, last_of, person
from protocol.credential import Credential

MAX_CARD_CODE_CHARS: Final = 64

OF_OTHERS: Final = Words("这张卡在这段时间已登记给其他组织的人，请联系上级党组织处理。")


@dataclass(frozen=True, slots=True)
class HeldCard:
    """A card that a member holds or held."""

    public_id: str
    code: str
    status: CardStatus
    numbers: tuple[str, ...]
    """The last characters of each of its numbers."""
    holder: Person
    valid_from_ms: int
    valid_to_ms: int | None
    is_last: bool
    """Whether nobody has held it since."""


def suggested(conn: Connection, scope: int, tap: FoundTap) -> list[Person]:
    """Who was expected at the scope's meetings that were open then, and has not been seen there."""
    if tap.at_ms is None or tap.venue_id is None:
        return []
    m, a = s.meetings.c, s.attendances.c
    came = (
        exists()
        .where(a.meeting_id == m.id, a.member_id == s.memberships.c.member_id)
        .correlate(s.meetings, s.memberships)
    )
    return [
        Person(str(row.public_id), row.code, row.name, None)
        for row in conn.execute(
            select(s.members.c.public_id, s.members.c.code, s.members.c.name)
            .distinct()
            .select_from(s.meetings)
            .join(s.memberships, IS_EXPECTED)
            .join(s.members, s.members.c.id == s.memberships.c.member_id)
            .where(
                within(scope, m.organisation_id),
                within(scope, s.memberships.c.organisation_id),
                ~m.cancelled,
                m.venue_id == tap.venue_id,
                m.opens_ms <= tap.at_ms,
                m.ends_ms >= tap.at_ms,
                ~came,
            )
            .order_by(s.members.c.code)
            .limit(MAX_SUGGESTED)
        )
    ]


def cards_of(conn: Connection, scope: int, member_id: int, now_ms: int) -> list[HeldCard]:
    """The cards that a member holds or held, the newest first. The member is the scope's."""
    b, c = s.bindings.c, s.cards.c
    rows = conn.execute(
        select(s.cards, b.id.label("binding_id"), b.valid_from_ms, b.valid_to_ms)
        .join(s.bindings, b.card_id == c.id)
        .where(b.member_id == member_id)
        .order_by(b.valid_from_ms.desc(), c.code)
    ).all()
    numbers = _numbers(conn, [row.id for row in rows])
    return [
        HeldCard(
            str(row.public_id),
            row.code,
            CardStatus(row.status),
            numbers.get(row.id, ()),
            person(conn, scope, member_id, now_ms),
            row.valid_from_ms,
            row.valid_to_ms,
            _last_binding(conn, row.id, now_ms).id == row.binding_id,
        )
        for row in rows
    ]


def bind(
    conn: Connection,
    caller: Caller,
    name: str,
    member: uuid.UUID,
    valid_from_ms: int,
    now_ms: int,
    *,
    card: uuid.UUID | None = None,
    code: str = "",
) -> uuid.UUID:
    """Say whose card a tap's is, from when on; gives the card. Raises TapError, NotFoundError.

    `card`: the member's own card, of which this is another number; None: a new card of this `code`,
    or of one that is made up. A number that has a card keeps it.
    """
    lock(conn)
    scope = caller.organisation_id
    tap = find_tap(conn, scope, name)
    holder = find_member(conn, scope, member, now_ms)
    if tap.outcome not in {Outcome.UNMATCHED, Outcome.UNDATED}:
        raise TapError("tap", Words("这次刷卡已经知道是谁的卡。"))
    if tap.credential_id is None:
        raise TapError("tap", Words("这次刷卡没有卡号，不能登记是谁的。"))
    must_ms = None if tap.at_ms is None else max(tap.at_ms, valid_from_ms)
    return bind_number(
        conn,
        caller,
        tap.credential_id,
        holder,
        valid_from_ms,
        now_ms,
        must_ms=must_ms,
        card=card,
        code=code,
    )


def bind_number(
    conn: Connection,
    caller: Caller,
    credential_id: int,
    holder: Row[Any],
    valid_from_ms: int,
    now_ms: int,
    *,
    must_ms: int | None = None,
    card: uuid.UUID | None = None,
    code: str = "",
) -> uuid.UUID:
    """As `bind`, of a credential and a member of the scope. The caller has the `lock`.

    An end that was said of this very holding stays, unless it is before `must_ms`; None: none does.
    """
    if valid_from_ms > now_ms:
        raise TapError("valid_from", Words("起始时间不能晚于现在。"))
    c = s.credentials.c
    known_id = conn.scalar(select(c.card_id).where(c.id == credential_id))
    card_id = known_id
    if card is not None:
        card_id = _card_of(conn, card, holder.id, now_ms)
        if known_id is not None and known_id != card_id:
            raise TapError("card", Words("这个卡号已登记为另一张卡，不能再登记到这张卡上。"))
    elif card_id is None:
        card_id = _new_card(conn, code)
    row = conn.execute(select(s.cards).where(s.cards.c.id == card_id)).one()
    if row.status != CardStatus.ACTIVE:
        raise TapError("card", Words("这张卡已挂失或停用，请先恢复使用。"))
    conn.execute(update(s.credentials).where(c.id == credential_id).values(card_id=row.id))
    scope = caller.organisation_id
    is_held = _hold(conn, scope, row.id, holder.id, valid_from_ms, must_ms, now_ms)
    if is_held and known_id == row.id:
        raise TapError(
            "valid_from",
            Words("从那时起这张卡已经登记给他：要把更早的刷卡也算作他的，请填更早的起始时间。"),
        )
    _told(
        conn,
        caller,
        "card.bind",
        row,
        holder.id,
        now_ms,
        member=holder.public_id,
        valid_from_ms=valid_from_ms,
    )
    rederive_credentials(conn, _credentials(conn, row.id))
    return uuid.UUID(str(row.public_id))


def number_of(conn: Connection, credential: Credential) -> int:
    """The id of a credential, which is written down where it is new."""
    c = s.credentials.c
    found = select(c.id).where(
        c.scheme == credential.scheme, c.issuer == credential.issuer, c.value == credential.value
    )
    known = conn.scalar(found)
    if known is None:
        # Ingest, which does not wait for us, may be faster.
        dialect = postgresql if conn.dialect.name == "postgresql" else sqlite
        conn.execute(
            dialect.insert(s.credentials)
            .values(scheme=credential.scheme, issuer=credential.issuer, value=credential.value)
            .on_conflict_do_nothing(index_elements=["scheme", "issuer", "value"])
        )
        known = conn.scalars(found).one()
    return int(known)


def end_binding(conn: Connection, caller: Caller, card: uuid.UUID, at_ms: int, now_ms: int) -> None:
    """From `at_ms` on the card is nobody's; at or before its beginning: it never was.

    Raises TapError, NotFoundError.
    """
    lock(conn)
    row = find_card(conn, caller.organisation_id, card, now_ms)
    last = _last_binding(conn, row.id, now_ms)
    if at_ms > now_ms:
        raise TapError("at", Words("结束时间不能晚于现在。"))
    if last.valid_to_ms is not None and last.valid_to_ms <= at_ms:
        raise TapError("at", Words("那时这张卡已经没有持卡人。"))
    _end(conn, last, at_ms)
    _told(conn, caller, "card.end", row, last.member_id, now_ms, at_ms=at_ms)
    rederive_credentials(conn, _credentials(conn, row.id))


def report_lost(conn: Connection, caller: Caller, card: uuid.UUID, at_ms: int, now_ms: int) -> None:
    """The card is lost: what it taps from `at_ms` on counts for nobody. As `end_binding`.

    Who was to have it later does not get it.
    """
    lock(conn)
    row = find_card(conn, caller.organisation_id, card, now_ms)
    if row.status != CardStatus.ACTIVE:
        raise TapError("card", Words("这张卡已经挂失或停用。"))
    if at_ms > now_ms:
        raise TapError("at", Words("挂失时间不能晚于现在。"))
    last = _last_binding(conn, row.id, now_ms)
    if last.valid_to_ms is None or last.valid_to_ms > at_ms:
        if at_ms <= last.valid_from_ms:
            raise TapError("at", Words("那时这张卡还没有登记给他，请核对挂失时间。"))
        _end(conn, last, at_ms)
    b = s.bindings.c
    for planned in conn.execute(
        select(s.bindings).where(b.card_id == row.id, b.valid_from_ms > now_ms)
    ).all():
        if person(conn, caller.organisation_id, planned.member_id, now_ms).name is None:
            raise TapError("card", OF_OTHERS)
        _end(conn, planned, at_ms)
    conn.execute(update(s.cards).where(s.cards.c.id == row.id).values(status=CardStatus.LOST.value))
    _told(conn, caller, "card.lost", row, last.member_id, now_ms, at_ms=at_ms)
    rederive_credentials(conn, _credentials(conn, row.id))


def reinstate(conn: Connection, caller: Caller, card: uuid.UUID, now_ms: int) -> None:
    """A lost card was found: from now on it is its last holder's again."""
    lock(conn)
    row = find_card(conn, caller.organisation_id, card, now_ms)
    last = _last_binding(conn, row.id, now_ms)
    if row.status == CardStatus.ACTIVE and (last.valid_to_ms is None or last.valid_to_ms > now_ms):
        raise TapError("card", Words("这张卡正在使用。"))
    conn.execute(
        update(s.cards).where(s.cards.c.id == row.id).values(status=CardStatus.ACTIVE.value)
    )
    _hold(conn, caller.organisation_id, row.id, last.member_id, now_ms, None, now_ms)
    _told(conn, caller, "card.reinstate", row, last.member_id, now_ms)
    rederive_credentials(conn, _credentials(conn, row.id))


Standing = dict[str, dict[str, Any] | None]
"""How cards stand, by id: status, who held each from when to when, numbers. None: there is none.

JSON takes it, and gives it back the same.
"""


def standing(conn: Connection, card_ids: Sequence[int]) -> Standing:
    """How these cards stand now."""
    b, c = s.bindings.c, s.credentials.c
    found: Standing = {str(each): None for each in card_ids}
    for card in conn.execute(select(s.cards).where(s.cards.c.id.in_(card_ids))).all():
        held = conn.execute(
            select(b.member_id, b.valid_from_ms, b.valid_to_ms)
            .where(b.card_id == card.id)
            .order_by(b.valid_from_ms, b.member_id)
        )
        numbers = conn.scalars(select(c.id).where(c.card_id == card.id).order_by(c.id))
        found[str(card.id)] = {
            "status": card.status,
            "held": [list(row) for row in held],
            "numbers": list(numbers),
        }
    return found


def put_back(
    conn: Connection,
    caller: Caller,
    holder: Row[Any],
    before: Mapping[str, dict[str, Any] | None],
    after: Mapping[str, dict[str, Any] | None],
    now_ms: int,
) -> None:
    """Undo what led from `before` to `after`, as if it had not been said. Raises TapError.

    `holder`: whose cards these are. What was changed since is not undone. The caller has the
    `lock`.
    """
    ids = [int(each) for each in after]
    rows = conn.execute(select(s.cards).where(s.cards.c.id.in_(ids))).all()
    if standing(conn, ids) != after:
        raise TapError("card", Words("这张卡后来又有改动，不能撤销，请到卡的页面处理。"))
    b, c = s.bindings.c, s.credentials.c
    touched = conn.scalars(select(c.id).where(c.card_id.in_(ids))).all()
    for row in rows:
        was = before[str(row.id)]
        numbers = [] if was is None else was["numbers"]
        conn.execute(delete(s.bindings).where(b.card_id == row.id))
        conn.execute(
            update(s.credentials)
            .where(c.card_id == row.id, c.id.not_in(numbers))
            .values(card_id=None)
        )
        if was is None:
            conn.execute(delete(s.cards).where(s.cards.c.id == row.id))
        else:
            conn.execute(update(s.cards).where(s.cards.c.id == row.id).values(status=was["status"]))
            for member_id, from_ms, to_ms in was["held"]:
                conn.execute(
                    insert(s.bindings).values(
                        card_id=row.id,
                        member_id=member_id,
                        valid_from_ms=from_ms,
                        valid_to_ms=to_ms,
                    )
                )
        _told(conn, caller, "card.undo", row, holder.id, now_ms, member=holder.public_id)
    rederive_credentials(conn, touched)


def _hold(
    conn: Connection,
    scope: int,
    card_id: int,
    member_id: int,
    from_ms: int,
    must_ms: int | None,
    now_ms: int,
) -> bool:
    """The member holds the card from then on; gives whether that is how it was.

    What the member held anyway is made longer. An end that was said stays where the member holds
    the card at `must_ms` nevertheless; None: no end stays.
    """
    b = s.bindings.c
    later = conn.execute(
        select(s.bindings)
        .where(b.card_id == card_id, or_(b.valid_to_ms.is_(None), b.valid_to_ms > from_ms))
        .order_by(b.valid_from_ms)
    ).all()
    if not later:
        conn.execute(
            insert(s.bindings).values(card_id=card_id, member_id=member_id, valid_from_ms=from_ms)
        )
        return False
    first = later[0]
    ends_ms = first.valid_to_ms
    if ends_ms is not None and (must_ms is None or must_ms >= ends_ms):
        ends_ms = None
    concerned = later if ends_ms is None else later[:1]
    others = [each for each in concerned if each.member_id != member_id]
    if others:
        other = person(conn, scope, others[0].member_id, now_ms)
        raise TapError(
            "valid_from",
            Words(
                "这张卡在这段时间已登记给{name}，请先结束那次登记，或改起始时间。", name=other.name
            )
            if other.name is not None
            else OF_OTHERS,
        )
    if first.valid_from_ms <= from_ms and first.valid_to_ms == ends_ms:
        return True
    for each in concerned[1:]:
        conn.execute(delete(s.bindings).where(b.id == each.id))
    conn.execute(
        update(s.bindings)
        .where(b.id == first.id)
        .values(valid_from_ms=min(from_ms, first.valid_from_ms), valid_to_ms=ends_ms)
    )
    return False


def _end(conn: Connection, binding: Row[Any], at_ms: int) -> None:
    b = s.bindings.c
    if at_ms <= binding.valid_from_ms:
        conn.execute(delete(s.bindings).where(b.id == binding.id))
    else:
        conn.execute(update(s.bindings).where(b.id == binding.id).values(valid_to_ms=at_ms))


def _card_of(conn: Connection, card: uuid.UUID, member_id: int, now_ms: int) -> int:
    """A card that this member holds or held last. Raises NotFoundError."""
    card_id = conn.scalar(select(s.cards.c.id).where(s.cards.c.public_id == card))
    if card_id is None or last_holder(conn, card_id, now_ms) != member_id:
        raise NotFoundError
    return int(card_id)


def _new_card(conn: Connection, code: str) -> int:
    code = code.strip() or f"K-{secrets.token_hex(5).upper()}"
    if len(code) > MAX_CARD_CODE_CHARS or re.search(r"\s", code) or not code.isprintable():
        raise TapError(
            "code",
            Words("卡的编号最多{n}个字符，中间不能有空格。", n=MAX_CARD_CODE_CHARS),
        )
    if conn.scalar(select(s.cards.c.id).where(s.cards.c.code == code)) is not None:
        raise TapError("code", Words("这个编号已经有另一张卡用了。"))
    made: int = conn.execute(
        insert(s.cards)
        .values(public_id=s.new_public_id(), code=code, status=CardStatus.ACTIVE.value)
        .returning(s.cards.c.id)
    ).scalar_one()
    return made


def _last_binding(conn: Connection, card_id: int, now_ms: int) -> Row[Any]:
    row = conn.execute(
        select(s.bindings)
        .where(s.bindings.c.card_id == card_id)
        .order_by(*last_begun(now_ms))
        .limit(1)
    ).one_or_none()
    if row is None:
        raise TapError("card", Words("这张卡没有登记过持卡人。"))
    return row


def _credentials(conn: Connection, card_id: int) -> Sequence[int]:
    c = s.credentials.c
    return conn.scalars(select(c.id).where(c.card_id == card_id)).all()


def _numbers(conn: Connection, card_ids: Sequence[int]) -> dict[int, tuple[str, ...]]:
    c = s.credentials.c
    found: dict[int, tuple[str, ...]] = {}
    for row in conn.execute(
        select(c.card_id, c.value).where(c.card_id.in_(card_ids)).order_by(c.id)
    ):
        found[row.card_id] = (*found.get(row.card_id, ()), last_of(row.value))
    return found


def _told(
    conn: Connection,
    caller: Caller,
    what: str,
    card: Row[Any],
    member_id: int,
    now_ms: int,
    **details: Any,
) -> None:
    """Write it where the member belongs."""
    m, o = s.memberships.c, s.organisations.c
    home = conn.scalar(
        select(o.id)
        .join(s.memberships, m.organisation_id == o.id)
        .where(
            m.member_id == member_id,
            within(caller.organisation_id, o.id),
            holds(s.memberships, now_ms),
        )
        .order_by((o.kind == OrgKind.BRANCH.value).desc(), m.valid_from_ms.desc(), m.id)
        .limit(1)
    )
    audit.record(
        conn,
        caller,
        what,
        caller.organisation_id if home is None else home,
        "card",
        card.public_id,
        now_ms,
        **details,
    )
