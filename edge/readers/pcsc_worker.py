"""The process that talks to PC/SC: it lists the readers, or serves the cards of one reader.

A card or a reader that never answers blocks a PC/SC call without end, and nothing but the end of
the process undoes that. So each reader's work is such a process, whose supervisor
(edge.readers.supervised) ends it when it has announced a card and does not follow up. It dies with
its supervisor. It tells the supervisor what happens by JSON lines on its standard output and
decides nothing: no debounce, no clock but the time at which a card was noticed.

Of pyscard only the bare API is used: its monitors end for good when pcscd does, and miss a card
that replaces one of the same kind. Here PC/SC's event counter (the upper half of the event
state, which pcscd counts up at each coming and each going) tells one card from the next.
"""

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import smartcard.scard

from edge.cards import CardRefused, CardUnusable, run
from edge.cards.choose import Presentation, Profiles, profiles_of
from edge.readers import Unreadable, pcsc_lamp
from edge.readers.lines import (
    Alive,
    Gone,
    LampTrouble,
    Listed,
    ListReaders,
    Read,
    Seen,
    ServeReader,
    Trouble,
    Unread,
    Working,
)
from edge.readers.pcsc_errors import (
    NO_READERS,
    NOT_TRANSACTED,
    REMOVED_CARD,
    SUCCESS,
    UNKNOWN_READER,
    Kind,
    down,
    explain,
    meaning,
    unsigned,
)
from edge.readers.worker import begin, say, signals

scard: Any = smartcard.scard  # it has no types

_WAIT_MS: Final = 2000
"""Longest wait in one call; a sign of life is sent at least this often."""
_FIRST_BACK_OFF_S: Final = 0.1
_LONGEST_BACK_OFF_S: Final = 2.0
_RETRY_PAUSE_MS: Final = 40
"""Pause after the first failed try with a card; each further one is longer by this."""
_MAX_NONSENSE: Final = 3
"""Tries of a card that does answer, but with nonsense."""
_CALM_S: Final = 0.02
"""Pause after a wake-up without news, so that a restless driver costs no more than 50 a second."""
_PNP: Final = "\\\\?PnP?\\Notification"
_COUNTER_MASK: Final = 0xFFFF


class PcscError(Exception):
    """A PC/SC call gave `code` (unsigned) where it should not."""

    def __init__(self, code: int, during: str) -> None:
        super().__init__(f"{during}: {explain(code)}")
        self.code = code
        self.during = during


@dataclass(frozen=True, slots=True)
class Slot:
    """A reader's slot at a moment: PC/SC's event counter (16 bits), and whether a card is there."""

    counter: int
    card: bool


@dataclass(frozen=True, slots=True)
class News:
    """What happened between two looks at a slot, as the generations of the cards concerned.

    In this order: `gone` left; `missed` came and left unseen (the last such card); `came` is there.
    """

    gone: int | None = None
    missed: int | None = None
    came: int | None = None


def news(before: Slot | None, now: Slot) -> News:
    """What happened from `before` to `now`; `before` is None at the first look."""
    if before is None:
        return News(came=now.counter if now.card else None)
    if before == now:
        return News()
    steps = (now.counter - before.counter) & _COUNTER_MASK
    arrivals = (steps + (not before.card)) // 2
    missed = None
    if arrivals > now.card:
        missed = (now.counter - (2 if now.card else 1)) & _COUNTER_MASK
    return News(
        gone=before.counter if before.card else None,
        missed=missed,
        came=now.counter if now.card else None,
    )


def main() -> None:
    """Does the task that its supervisor gives it; ends only with its supervisor."""
    match begin():
        case ListReaders():
            _keep_listing()
        case ServeReader() as task:
            if task.card:  # of a card that gave no answer pcscd may still wait for one
                signals.hold()
            pcsc_lamp.start(os.fsdecode(task.name), signals, lambda what: say(LampTrouble(what)))
            _keep_serving(task)


def _keep_listing() -> NoReturn:
    complaint = _Complaint()
    while True:
        try:
            with _context() as context:
                _list_readers(context, complaint)
        except PcscError as error:
            complaint.about(error)


def _list_readers(context: int, complaint: "_Complaint") -> NoReturn:
    listed: tuple[bytes, ...] | None = None
    state = scard.SCARD_STATE_UNAWARE
    while True:
        code, names = scard.SCardListReaders(context, [])
        code = unsigned(code)
        if code not in {SUCCESS, NO_READERS}:
            raise PcscError(code, "listing the readers")
        now = tuple(sorted(os.fsencode(name) for name in names)) if code == SUCCESS else ()
        complaint.over()
        if now != listed:
            listed = now
            say(Listed(now))
        else:
            say(Alive())
        asked = time.monotonic()
        state = _status(context, _PNP, state, _WAIT_MS)
        if time.monotonic() - asked < _CALM_S:
            time.sleep(0.25)


def _keep_serving(task: ServeReader) -> NoReturn:
    complaint = _Complaint()
    profiles = profiles_of(task.cards)
    slot = None if task.counter is None else Slot(task.counter, task.card)
    while True:
        try:
            with _context() as context:
                _serve(context, task, profiles, slot, complaint)
        except PcscError as error:
            slot = None  # counters of another pcscd, or of the reader plugged in again, differ
            complaint.about(error)


def _serve(
    context: int, task: ServeReader, profiles: Profiles, slot: Slot | None, complaint: "_Complaint"
) -> NoReturn:
    name = os.fsdecode(task.name)
    state = _status(context, name, scard.SCARD_STATE_UNAWARE, 0)
    now = _slot(state)
    complaint.over()
    say(Working(now.counter))
    while True:
        noticed_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        happened = news(slot, now)
        if slot is None or happened != News():
            signals.release()
        if happened == News():
            say(Alive())
            time.sleep(_CALM_S)
        slot = now
        if happened.gone is not None:
            say(Gone(happened.gone, now.counter))
        if happened.missed is not None:
            say(Seen(happened.missed, noticed_ms))
            say(Unread(happened.missed, Unreadable.REMOVED, "it came and went between two looks"))
            say(Gone(happened.missed, now.counter))
        if happened.came is not None:
            say(Seen(happened.came, noticed_ms))
            with signals.held():
                outcome = _read(context, name, profiles, now, state, task.budget_ms)
            say(outcome)
        state = _status(context, name, state, _WAIT_MS)
        if not state >> 16:
            # pcscd compares counters only when the known one is not 0, so ask without knowledge.
            state = _status(context, name, scard.SCARD_STATE_UNAWARE, 0)
        now = _slot(state)


def _read(
    context: int, name: str, profiles: Profiles, slot: Slot, state: int, budget_ms: int
) -> Read | Unread:
    """Reads the card in `slot`, trying again what may pass within `budget_ms`.

    Says `Unread` itself before it raises PcscError, where the reader or the service went away.
    """
    deadline = time.monotonic() + budget_ms / 1000
    presentation = Presentation(profiles)
    nonsense = 0
    for attempt in itertools.count(1):
        try:
            return _attempt(context, name, presentation, slot, state)
        except CardRefused as refused:
            return Unread(slot.counter, Unreadable.because(refused.reason), "refused")
        except CardUnusable as unusable:
            reason, detail = Unreadable.BAD_ANSWER, str(unusable)
            nonsense += 1
        except PcscError as error:
            reason, detail = _reason(error.code), str(error)
            if meaning(error.code).kind in {Kind.SERVICE, Kind.READER, Kind.OTHER}:
                say(Unread(slot.counter, reason, detail))
                raise
        pause_ms = attempt * _RETRY_PAUSE_MS
        if reason is Unreadable.REMOVED or nonsense == _MAX_NONSENSE:
            break
        if time.monotonic() + pause_ms / 1000 > deadline:
            break
        if _left(context, name, slot, state, within_ms=pause_ms):
            break
    if _left(context, name, slot, state, within_ms=0):
        reason = Unreadable.REMOVED
    return Unread(slot.counter, reason, detail)


def _attempt(context: int, name: str, presentation: Presentation, slot: Slot, state: int) -> Read:
    with _connection(context, name) as (card, protocol):
        # Once connected, a card that leaves makes the handle stale; before, only this tells.
        if _left(context, name, slot, state, within_ms=0):
            raise PcscError(REMOVED_CARD, "connecting to the card")

        def transmit(apdu: bytes) -> bytes:
            code, answer = scard.SCardTransmit(card, protocol, list(apdu))
            _check(code, "talking to the card")
            if not answer:  # what pcscd makes of a card that is pulled during the exchange
                raise PcscError(NOT_TRANSACTED, "talking to the card")
            return bytes(answer)

        return Read.of(slot.counter, run(presentation.identify(), transmit))


def _left(context: int, name: str, slot: Slot, state: int, *, within_ms: int) -> bool:
    """Whether the card in `slot` has left; waits up to `within_ms` for it to do so."""
    end = time.monotonic() + within_ms / 1000
    while _slot(state) == slot:
        remaining_ms = int((end - time.monotonic()) * 1000)
        state = _status(context, name, state, max(0, remaining_ms))
        if remaining_ms <= 0:
            break
    return _slot(state) != slot


def _reason(code: int) -> Unreadable:
    match meaning(code).kind:
        case Kind.REMOVED:
            return Unreadable.REMOVED
        case Kind.BUSY:
            return Unreadable.BUSY
        case Kind.TIME_OUT | Kind.AGAIN | Kind.SERVICE | Kind.READER | Kind.OTHER:
            return Unreadable.BAD_ANSWER


class _Complaint:
    """Tells each trouble once and paces the attempts to get over it."""

    def __init__(self) -> None:
        self._code: int | None = None
        self._pause_s = _FIRST_BACK_OFF_S

    def about(self, error: PcscError) -> None:
        if error.code == self._code:
            say(Alive())
        else:
            self._code = error.code
            say(Trouble(down(error.code), f"{error.during}: {explain(error.code)}"))
        time.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 2, _LONGEST_BACK_OFF_S)

    def over(self) -> None:
        self._code = None
        self._pause_s = _FIRST_BACK_OFF_S


@contextmanager
def _context() -> Iterator[int]:
    code, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_USER)
    _check(code, "calling the smart-card service")
    try:
        yield context
    finally:
        scard.SCardReleaseContext(context)


@contextmanager
def _connection(context: int, name: str) -> Iterator[tuple[int, int]]:
    """The card, for us alone: what another program says to it between two of our commands could
    make it answer the second from another file.
    """
    code, card, protocol = scard.SCardConnect(
        context,
        name,
        scard.SCARD_SHARE_SHARED,
        scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1,
    )
    _check(code, "connecting to the card")
    try:
        _check(scard.SCardBeginTransaction(card), "connecting to the card")
        try:
            yield card, protocol
        finally:
            scard.SCardEndTransaction(card, scard.SCARD_LEAVE_CARD)
    finally:
        scard.SCardDisconnect(card, scard.SCARD_LEAVE_CARD)


def _status(context: int, name: str, known: int, timeout_ms: int) -> int:
    """The event state of reader `name` when it differs from `known`, or after `timeout_ms`."""
    code, states = scard.SCardGetStatusChange(context, timeout_ms, [(name, known)])
    code = unsigned(code)
    if code == SUCCESS:
        _, state, _ = states[0]
        return int(state & ~scard.SCARD_STATE_CHANGED)
    if meaning(code).kind is Kind.TIME_OUT:
        return known
    raise PcscError(code, "waiting for a card")


def _slot(state: int) -> Slot:
    if state & (scard.SCARD_STATE_UNKNOWN | scard.SCARD_STATE_UNAVAILABLE):
        raise PcscError(UNKNOWN_READER, "waiting for a card")
    return Slot(state >> 16 & _COUNTER_MASK, bool(state & scard.SCARD_STATE_PRESENT))


def _check(code: int, during: str) -> None:
    if unsigned(code) != SUCCESS:
        raise PcscError(unsigned(code), during)


if __name__ == "__main__":
    main()
