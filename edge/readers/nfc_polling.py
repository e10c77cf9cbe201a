"""The loop of a worker that serves the field of an NFC chip: it looks, reads, and tells.

A chip tells nothing by itself, so its field is looked at some ten times a second. Each look
switches the field off and on: a card begins anew, and what tells one card from the next is its
mark, which is its UID where it has one that lasts. A card is gone when two looks do not find it.

Decides nothing: no debounce, no clock but the time at which a card was noticed.
"""

import itertools
import os
import time
from dataclasses import dataclass
from typing import Final, NoReturn

from edge.cards import CardRefused, CardUnusable, run
from edge.cards.choose import Presentation, Profiles, profiles_of
from edge.readers import Down, Unreadable
from edge.readers.lines import Alive, Gone, Read, Seen, ServeReader, Trouble, Unread, Working
from edge.readers.nfc_chip import Card, Field, Garbled, Lost, NoAnswer
from edge.readers.worker import say
from protocol.credential import UID_SCHEME

_PAUSE_S: Final = 0.05
_SIGN_OF_LIFE_S: Final = 2.0
_MISSES: Final = 2
"""A card at the edge of the field answers not every time."""
_FAULTS: Final = 3
"""Looks that fail one after the other; a disturbance on the line is over sooner."""
_MAX_NONSENSE: Final = 3
_FIRST_BACK_OFF_S: Final = 0.25
_LONGEST_BACK_OFF_S: Final = 4.0


@dataclass(slots=True)
class _Presence:
    """What was last told; `mark` is that of the card that is there."""

    counter: int
    mark: bytes | None


def serve(task: ServeReader) -> NoReturn:
    """Does the task, through all that happens to chip and line."""
    profiles = profiles_of(task.cards)
    presence = _Presence(task.counter or 0, task.mark if task.card else None)
    complaint = _Complaint()
    while True:
        try:
            field = Field(os.fsdecode(task.name))
            try:
                _watch(field, presence, profiles, task.budget_ms, complaint)
            finally:
                field.close()
        except Lost as lost:
            presence.mark = None  # the supervisor takes it so
            complaint.about(lost)


def _watch(
    field: Field, presence: _Presence, profiles: Profiles, budget_ms: int, complaint: "_Complaint"
) -> NoReturn:
    faults = misses = 0
    told = -_SIGN_OF_LIFE_S
    working = False
    while True:
        try:
            card = field.look()
        except (Garbled, NoAnswer) as fault:
            faults += 1
            if faults == _FAULTS:
                raise Lost(Down.NOT_ANSWERING, str(fault)) from fault
            time.sleep(_PAUSE_S)
            continue
        noticed_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        faults = 0
        if not working:
            working = True
            complaint.over()
            say(Working(presence.counter))
        if card is not None and card.mark == presence.mark:
            misses = 0
        elif presence.mark is not None:
            misses += 1
            if card is not None or misses == _MISSES:
                presence.mark = None
                say(Gone(presence.counter, presence.counter))
        if card is not None and presence.mark is None:
            misses = 0
            presence.counter += 1
            presence.mark = card.mark
            say(Seen(presence.counter, noticed_ms, card.mark))
            say(_read(field, card, presence.counter, profiles, budget_ms))
        if time.monotonic() - told > _SIGN_OF_LIFE_S:
            told = time.monotonic()
            say(Alive())
        time.sleep(_PAUSE_S)


def _read(
    field: Field, card: Card, generation: int, profiles: Profiles, budget_ms: int
) -> Read | Unread:
    """Reads `card`, trying again what may pass within `budget_ms`.

    Says `Unread` itself before it raises Lost.
    """
    deadline = time.monotonic() + budget_ms / 1000
    presentation = Presentation(profiles)
    for attempt in itertools.count(1):
        try:
            reading = run(presentation.identify(), card.transmit)
        except CardRefused as refused:
            return Unread(generation, Unreadable.because(refused.reason), "refused")
        except CardUnusable as unusable:
            reason, detail = Unreadable.BAD_ANSWER, str(unusable)
        except Garbled as garbled:
            reason, detail = Unreadable.BAD_ANSWER, str(garbled)
        except NoAnswer as none:
            reason, detail = Unreadable.TIMEOUT, str(none)
        except Lost as lost:
            say(Unread(generation, Unreadable.BAD_ANSWER, lost.what))
            raise
        else:
            if reading.credential.scheme != UID_SCHEME or card.doubtful is None:
                return Read.of(generation, reading)
            # A second look costs as much as the first: only a number that may not last needs it.
            again = _again(field, generation)
            if again is None or again.mark != card.mark:
                return Unread(generation, Unreadable.REMOVED, "gone before a second look")
            if again.doubtful != card.doubtful:
                return Unread(generation, Unreadable.RANDOM_NUMBER, "refused")
            return Read.of(generation, reading)
        again = _again(field, generation)
        if again is None or again.mark != card.mark:
            return Unread(generation, Unreadable.REMOVED, detail)
        if attempt == _MAX_NONSENSE or time.monotonic() > deadline:
            break
        card = again
    return Unread(generation, reason, detail)


def _again(field: Field, generation: int) -> Card | None:
    """What lies there now, also where the first look is disturbed."""
    for _ in range(_FAULTS):
        try:
            card = field.look()
        except (Garbled, NoAnswer):
            continue
        except Lost as lost:
            say(Unread(generation, Unreadable.BAD_ANSWER, lost.what))
            raise
        if card is not None:
            return card
    return None


class _Complaint:
    """Tells each trouble once and paces the attempts to get over it."""

    def __init__(self) -> None:
        self._told = ""
        self._pause_s = _FIRST_BACK_OFF_S

    def about(self, lost: Lost) -> None:
        if lost.what == self._told:
            say(Alive())
        else:
            self._told = lost.what
            say(Trouble(lost.down, lost.what))
        time.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 2, _LONGEST_BACK_OFF_S)

    def over(self) -> None:
        self._told = ""
        self._pause_s = _FIRST_BACK_OFF_S
