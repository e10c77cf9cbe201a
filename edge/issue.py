"""The desk station (发卡台): a reader and a terminal, or the hub's page, to bind cards with.

Promises: a card is bound by one request, whole or not at all, and never twice, however often it is
asked for; a failure of the network is said, with whether something may have happened, and ends
nothing; of a card only the last characters are shown, and nothing of it is written anywhere here.
A list of members goes on where it stopped (`edge.batch`).

It needs no enrolment, writes no journal and judges nothing: whose card it is, the hub says.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TextIO, TypeVar

from edge.actsocket import ActError, ActLine
from edge.batch import Batch
from edge.desk import Card, Desk, IssueError, Member, Reading, read_token
from edge.readers import (
    CardGone,
    CardRead,
    CardSeen,
    CardUnreadable,
    ReaderDown,
    ReaderEvent,
    Readers,
    ReaderUp,
)
from edge.request import (
    HubAddress,
    NoAnswerError,
    NotAskedError,
    RefusedError,
    RequestError,
    plain,
)
from protocol.credential import Credential

SHOWN: Final = 20
"""Members that are listed at once."""
READY_S: Final = 3.0
TICK_S: Final = 1.0

HELP: Final = (
    "Hold a card to the reader, or type: lost (a member's card is lost), replace (a new card for"
    " an old one), undo (the last binding), skip (leave what is asked), quit."
)
NOT_TAKEN: Final = "One at a time: that card was not taken."
NEXT: Final = "The next card, or: lost, replace, undo, quit."

T = TypeVar("T")


class _Skip(Exception):  # noqa: N818 - somebody's wish
    """What is asked shall be left."""


class _Quit(Exception):  # noqa: N818 - somebody's wish
    """The station shall end."""


# --- What comes in --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Typed:
    text: str


@dataclass(frozen=True, slots=True)
class _Ended:
    """Nothing more will be typed."""


@dataclass(frozen=True, slots=True)
class _Told:
    """Something to be said of a reader."""

    words: str


_Event = _Typed | _Ended | _Told | Credential


class Inputs:
    """Cards and typed lines, in the order in which they come. `lines` None: nothing is typed."""

    def __init__(self, readers: Sequence[Readers], lines: TextIO | None) -> None:
        self._readers = readers
        self._lines = lines
        self._events: queue.Queue[_Event] = queue.Queue()
        self._up = threading.Event()

    def __enter__(self) -> Self:
        for each in self._readers:
            each.start(self._take)
        if not self._up.wait(READY_S):
            for each in self._readers:
                self._events.put(_Told(each.health().trouble or "No reader is ready yet."))
        if self._lines is not None:
            threading.Thread(target=self._read, name="lines", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._readers:
            each.stop()

    def next(self) -> _Event:
        """What comes next, however long it takes. Raises IssueError where nothing can come."""
        while True:
            try:
                return self._events.get(timeout=TICK_S)
            except queue.Empty:
                if not all(each.alive() for each in self._readers):
                    raise IssueError("a part of the readers' driver has ended") from None

    def drop_cards(self) -> bool:
        """Forgets the cards that have come already; whether there were any."""
        waiting: list[_Event] = []
        with suppress(queue.Empty):
            while True:
                waiting.append(self._events.get_nowait())
        for each in waiting:
            if not isinstance(each, Credential):
                self._events.put(each)
        return any(isinstance(each, Credential) for each in waiting)

    def _take(self, event: ReaderEvent) -> None:
        match event:
            case CardRead(credential=credential):
                self._events.put(credential)
            case CardUnreadable(reason=reason):
                self._events.put(_Told(f"The card was not read: {reason.wording}"))
            case ReaderUp(reader):
                self._up.set()
                self._events.put(_Told(f"Reader {plain(reader)} is ready."))
            case ReaderDown(reader, reason):
                self._events.put(_Told(f"Reader {plain(reader)} cannot be used: {reason.value}."))
            case CardSeen() | CardGone():
                pass

    def _read(self) -> None:
        assert self._lines is not None  # noqa: S101
        with suppress(OSError, ValueError):
            for line in self._lines:
                self._events.put(_Typed(line.strip()))
        self._events.put(_Ended())


# --- The station ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Former:
    """The card that goes when another comes; None: none does."""

    card: Card | None = None
    is_lost: bool = False


@dataclass(frozen=True, slots=True)
class _Bound:
    """What this session has bound."""

    reading: str
    words: str


class Station:
    """Talks to one person at a time: `say` writes a line."""

    def __init__(self, desk: Desk, inputs: Inputs, say: Callable[[str], None]) -> None:
        self._desk = desk
        self._inputs = inputs
        self._say = say
        self._bound: list[_Bound] = []

    def forward(self) -> None:
        """Tells the hub what is read, for its page to show; ends by an interrupt only."""
        self._say("What is read here appears on the hub's page 发卡台 (/cards/desk). Ctrl-C ends.")
        while True:
            match self._inputs.next():
                case Credential() as card:
                    reading = self._read(card)
                    if reading is not None:
                        self._say(f"{reading}. It is on the page.")
                case _Told(words):
                    self._say(words)
                case _Typed() | _Ended():
                    pass

    def serve(self) -> None:
        """Card after card, until somebody has had enough."""
        prompt = HELP
        with suppress(_Quit):
            while True:
                with suppress(_Skip):
                    self._one(prompt)
                prompt = NEXT

    def go_through(self, batch: Batch) -> None:
        """A card for each of a list, in its order, until all have one or somebody leaves."""
        skipped: set[str] = set()
        with suppress(_Quit):
            while True:
                ahead = [each for each in batch.waiting if each.code not in skipped]
                if not ahead:
                    break
                try:
                    self._one_of(batch, ahead[0])
                except _Skip:
                    skipped.add(ahead[0].code)
        left = len(batch.waiting)
        if left:
            self._say(f"{batch.said} done. The same command goes on with the other {left}.")
        else:
            self._say(f"{batch.said} done: all of the list have their card.")

    # --- One card -------------------------------------------------------------------------------

    def _one(self, prompt: str) -> None:
        got = self._card(prompt)
        match got:
            case Credential():
                reading = self._read(got)
                if reading is not None:
                    self._give(reading)
            case "lost":
                self._lost()
            case "replace":
                self._replace()
            case "undo":
                self._undo()
            case _:
                self._say(f"{plain(got)!r} is none of what can be typed here.")

    def _give(self, reading: Reading) -> None:
        """Asks whose a card is that has just been read."""
        self._say(f"{reading}.")
        if not reading.is_free:
            return
        member = self._pick(f"Whose is {reading.tail}?")
        former = self._old_of(member)
        if former is None:
            return
        self._sure(f"Bind {reading.tail} to {member}?")
        self._bind(reading, member, former)

    def _replace(self) -> None:
        member = self._pick("Who gets a new card?")
        cards = self._tried(lambda: self._desk.cards(member))
        if cards is None:
            return
        old = self._which(cards, f"{member} has several cards. Which one goes?")
        is_lost = False
        if old is None:
            self._say(f"{member} has no card in use.")
        else:
            is_lost = self._yes(f"Is the old card {old} lost?")
        got = self._card(f"Hold the new card of {member} to the reader.", is_for_one=True)
        if not isinstance(got, Credential):
            raise _Skip
        reading = self._read(got)
        if reading is None:
            return
        self._say(f"{reading}.")
        if reading.is_free:
            ends = "" if old is None else f" and end {old}{' as lost' if is_lost else ''}"
            self._sure(f"Bind {reading.tail} to {member}{ends}?")
            self._bind(reading, member, _Former(old, is_lost=is_lost))

    def _lost(self) -> None:
        member = self._pick("Whose card is lost?")
        cards = self._tried(lambda: self._desk.cards(member))
        if cards is None:
            return
        card = self._which(cards, f"{member} has several cards. Which one is lost?")
        if card is None:
            self._say(f"{member} has no card in use.")
            return
        self._sure(f"Report {card} of {member} lost, from now on?")
        if self._tried(lambda: self._desk.report_lost(card)) is None:
            return
        self._say(f"Lost: {card} of {member}. Found again: on the hub's page of the card.")

    def _undo(self) -> bool:
        if not self._bound:
            self._say("Nothing was bound in this session that could be undone.")
            return False
        last = self._bound[-1]
        if not self._undone(last.reading, last.words):
            return False
        self._bound.pop()
        return True

    def _undone(self, reading: str, words: str) -> bool:
        if self._tried(lambda: self._desk.undo(reading)) is None:
            return False
        self._say(f"Undone: {words}.")
        return True

    # --- One of a list --------------------------------------------------------------------------

    def _one_of(self, batch: Batch, member: Member) -> None:
        got = self._card(
            f"{batch.said} done. Next: {member}. Hold the card to the reader, or type: undo, skip,"
            " quit.",
            is_for_one=True,
        )
        if got == "undo":
            self._undo_of(batch)
            return
        if not isinstance(got, Credential):
            self._say(f"{plain(got)!r} is none of what can be typed here.")
            return
        reading = self._read(got)
        if reading is None:
            return
        holder = reading.holder
        if reading.state == "BOUND" and holder is not None and holder.code == member.code:
            self._say(f"{reading.tail} is the card of {member} already: done.")
            batch.add(member, reading, is_new=False)
        elif not reading.is_free:
            self._say(f"{reading}: not taken.")
        else:
            former = self._old_of(member)
            if former is not None and self._bind(reading, member, former):
                batch.add(member, reading, is_new=True)

    def _undo_of(self, batch: Batch) -> None:
        if not batch.done:
            self._say("Nothing of this list is done yet.")
            return
        last = batch.done[-1]
        words = f"{last.tail} of {plain(last.code)}"
        if last.reading is None:
            self._say(f"{words} was bound before: it stays so, and comes again in the list.")
        elif not self._undone(last.reading, words):
            return
        self._bound = [each for each in self._bound if each.reading != last.reading]
        batch.take_back()

    # --- The hub, with a person who waits -------------------------------------------------------

    def _read(self, card: Credential) -> Reading | None:
        """What the hub says of a card; None where it says nothing, which has been said."""
        try:
            return self._desk.read(card)
        except RequestError as error:
            self._say(f"{error}. Nothing was bound: hold the card to the reader again.")
            return None

    def _bind(self, reading: Reading, member: Member, former: _Former) -> bool:
        """Whether it is bound, as far as is known; asks again as often as somebody wants."""
        while True:
            try:
                self._desk.bind(reading, member, former.card, is_lost=former.is_lost)
            except RefusedError as error:
                why = error.detail
                if error.status == 404:  # ten minutes have gone, or another station's token
                    why = "the hub has forgotten this card: hold it to the reader again"
                self._say(f"Not bound: {why}.")
                return False
            except NotAskedError as error:
                self._say(f"Not bound: {error}.")
            except NoAnswerError as error:
                self._say(f"{error}. It may be bound or not.")
            else:
                words = f"{reading.tail} to {member}"
                self._bound.append(_Bound(reading.public_id, words))
                self._say(f"Bound: {words}.")
                return True
            try:
                self._ask("Enter asks once more, nothing is bound twice; skip leaves it.")
            except _Skip:
                self._say("Left. Read the card again to see whether it is bound.")
                return False

    def _tried(self, what: Callable[[], T]) -> T | None:
        """What the hub says, or None after why it does not."""
        try:
            found = what()
        except RefusedError as error:
            self._say(f"Not done: {error.detail}.")
        except NotAskedError as error:
            self._say(f"Not done: {error}.")
        except NoAnswerError as error:
            self._say(f"{error}. It may be done or not: asking again does no harm.")
        else:
            return found
        return None

    def _pick(self, prompt: str) -> Member:
        """A member whom somebody names."""
        shown: Sequence[Member] = ()
        while True:
            text = self._ask(f"{prompt} Code, name or pinyin:")
            is_row = text.isdecimal() and text.isascii() and 1 <= int(text) <= len(shown)
            if is_row and all(each.code != text for each in shown):
                return shown[int(text) - 1]
            if not text:
                continue
            answer = self._tried(lambda text=text: self._desk.members(text, SHOWN))  # type: ignore[misc]
            if answer is None:
                continue
            found, total = answer
            exact = [each for each in found if each.code.casefold() == text.casefold()]
            if len(exact) == 1 or total == 1:
                return (exact or list(found))[0]
            if not found:
                self._say(f"Nobody in this token's sub-tree is {plain(text)!r}.")
                continue
            shown = found
            for number, each in enumerate(shown, 1):
                self._say(f"  {number}. {each}")
            if total > len(shown):
                self._say(f"  and {total - len(shown)} more: say more of the name.")

    def _old_of(self, member: Member) -> _Former | None:
        """What becomes of the card that the member has; None where the hub does not say."""
        cards = self._tried(lambda: self._desk.cards(member))
        if cards is None:
            return None
        if not cards:
            return _Former()
        said = "; ".join(str(each) for each in cards)
        while True:
            word = self._ask(
                f"{member} has a card already ({said}). Type keep (both are used), replace (the old"
                " one ends), lost (the old one is lost) or skip:"
            )
            if word == "keep":
                return _Former()
            if word in {"replace", "lost"}:
                return _Former(self._which(cards, "Which one?"), is_lost=word == "lost")

    def _which(self, cards: Sequence[Card], prompt: str) -> Card | None:
        if len(cards) < 2:
            return cards[0] if cards else None
        for number, each in enumerate(cards, 1):
            self._say(f"  {number}. {each}")
        while True:
            text = self._ask(f"{prompt} Number:")
            if text.isascii() and text.isdecimal() and 1 <= int(text) <= len(cards):
                return cards[int(text) - 1]

    # --- The person -----------------------------------------------------------------------------

    def _card(self, prompt: str, *, is_for_one: bool = False) -> Credential | str:
        """The next card that is held to a reader, or what is typed instead.

        `is_for_one`: it becomes that of the person whom `prompt` names, so a card counts only that
        was held there after it.
        """
        if is_for_one and self._inputs.drop_cards():
            self._say(NOT_TAKEN)
        self._say(prompt)
        while True:
            match self._inputs.next():
                case Credential() as card:
                    return card
                case _Told(words):
                    self._say(words)
                case _Typed(text) if text:
                    return self._wish(text)
                case _Typed():
                    pass
                case _Ended():
                    raise _Quit

    def _ask(self, prompt: str) -> str:
        """What somebody types. A card that is held there meanwhile is not taken, and told so."""
        self._say(prompt)
        while True:
            match self._inputs.next():
                case Credential():
                    self._say(NOT_TAKEN)
                case _Told(words):
                    self._say(words)
                case _Typed(text):
                    return self._wish(text)
                case _Ended():
                    raise _Quit

    def _wish(self, text: str) -> str:
        match text.casefold():
            case "quit" | "exit":
                raise _Quit
            case "skip":
                raise _Skip
            case "keep" | "lost" | "replace" | "undo" as word:
                return word
            case _:
                return text

    def _yes(self, prompt: str) -> bool:
        while True:
            answer = self._ask(f"{prompt} yes or no:").casefold()
            if answer in {"yes", "y", "是"}:
                return True
            if answer in {"no", "n", "否"}:
                return False

    def _sure(self, prompt: str) -> None:
        if not self._yes(prompt):
            self._say("Left as it was.")
            raise _Skip


def issue(
    data: Path,
    readers: Sequence[Readers],
    hub: str,
    token_file: Path,
    lines: TextIO,
    say: Callable[[str], None],
    *,
    list_file: Path | None = None,
    is_station: bool = False,
) -> None:
    """Works until somebody ends it. Raises IssueError.

    `data` is the folder of a device that may run here, of which nothing but that is asked.
    """
    try:
        address = HubAddress.parse(hub)
    except RequestError as error:
        raise IssueError(str(error)) from error
    desk = Desk(address, read_token(token_file))
    if not readers:
        raise IssueError("the configuration names no reader: see [readers]")
    batch = None if list_file is None else Batch.open(list_file, desk)
    if not address.is_private:
        say("The token and the cards' numbers go to the hub unencrypted: use https:// if you can.")
    with suppress(ActError, OSError), ActLine(data):
        say("shuaka-edge runs here too: what is held to its readers it records as taps as well.")
    with Inputs(readers, None if is_station else lines) as inputs:
        station = Station(desk, inputs, say)
        if is_station:
            station.forward()
        elif batch is not None:
            station.go_through(batch)
        else:
            station.serve()
