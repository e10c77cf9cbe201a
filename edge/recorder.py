"""The one thread that owns the journal: reader events in, durable entries and then lights out.

Promises: a light that says recorded comes after the commit (P1); what could not be committed shows
red (P5); a journal that failed is opened anew, in a new epoch, and recording goes on by itself.
It does not send, and it judges nobody: every card that could be read is recorded.

Once the hub has told the device to retire, nothing is recorded any more, also after a restart.

While somebody waits for a card that authorises what was asked (`ask`), the next card does that, and
is recorded as that action instead of a tap.
"""

import logging
import queue
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, assert_never

from edge.acts import WAIT_MS, Again, Answer, Done, Refused, Tell, Unknown, Waiting, Why, Wish
from edge.clock import Clock
from edge.couriers import Appended, JournalEvent, JournalState, Opened, Pruned, Told
from edge.feedback import (
    ALREADY_ACTED,
    ALREADY_RECOGNISED,
    ALREADY_UNKNOWN,
    OUT_OF_DATE,
    Feedback,
    Notice,
    Outcome,
    Standing,
)
from edge.readers import (
    CardGone,
    CardRead,
    CardSeen,
    CardUnreadable,
    ReaderDown,
    ReaderEvent,
    ReaderUp,
    wire_name,
)
from edge.retirement import is_retired, keep
from edge.status import Heard, RecorderStatus
from edge.store import (
    DEFAULT_RETENTION,
    Ended,
    Journal,
    JournalBusyError,
    JournalError,
    JournalNewerError,
    NewAction,
    NewTap,
    Owner,
    Retention,
)
from edge.taps import Debounce
from protocol import journal as entries
from protocol.batch import MAX_READERS, ReaderState
from protocol.journal import EARLIEST_WALL_MS, MAX_TIME_MS, ClockSample, Entry, Stamp
from protocol.roster import Known, Roster

MAX_GROUP: Final = 64
TICK_S: Final = 0.5
REOPEN_EVERY_MS: Final = 5_000
STEP_MS: Final = 1_000
"""A wall clock that moved by more than this against CLOCK_BOOTTIME was stepped."""
STALL_MS: Final = 3_000
"""A storage that keeps the recorder waiting for longer shows red; SQLite itself waits 2 s."""
SETTLE_MS: Final = 4_000
"""How long a card that was seen may take until its event is here, beyond the read time-out."""

NOT_RECORDING: Final = "not-recording"
"""Why a reader counts as down while the journal fails, in the entries of the next epoch."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Release:
    epoch: bytes
    through: int


@dataclass(frozen=True, slots=True)
class _NewGeneration:
    generation: int


@dataclass(frozen=True, slots=True)
class _Alarm:
    reason: str


@dataclass(frozen=True, slots=True)
class _Retire:
    order: bytes


@dataclass(frozen=True, slots=True)
class _NewHubKey:
    seal: bytes


@dataclass(frozen=True, slots=True)
class _NewRoster:
    roster: Roster
    boottime_ms: int


@dataclass(frozen=True, slots=True)
class _Stick:
    standing: Standing | None
    detail: str


@dataclass(frozen=True, slots=True)
class _AskState:
    at: Stamp


@dataclass(slots=True, eq=False)
class _Asked:
    """An action that waits for its card; which must be noticed between the two times."""

    wish: Wish
    tell: Tell
    since_ms: int = 0
    until_ms: int = 0


@dataclass(frozen=True, slots=True)
class _Cancel:
    asked: _Asked


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


_Event = (
    ReaderEvent
    | _Release
    | _NewGeneration
    | _Alarm
    | _Retire
    | _NewHubKey
    | _NewRoster
    | _Stick
    | _AskState
    | _Asked
    | _Cancel
    | _Stop
)


class Recorder:
    """Records for `owner` into the journal in folder `data`."""

    def __init__(
        self,
        data: Path,
        owner: Owner,
        clock: Clock,
        feedback: Feedback,
        *,
        debounce_ms: int,
        read_timeout_ms: int,
        keep: Retention = DEFAULT_RETENTION,
    ) -> None:
        self._data = data
        self._owner = owner
        self._keep = keep
        self._clock = clock
        self._feedback = feedback
        self._settle_ms = read_timeout_ms + SETTLE_MS
        self._debounce = Debounce(secrets.token_bytes(32), window_ms=debounce_ms)
        self._acted = Debounce(secrets.token_bytes(32), window_ms=debounce_ms)
        self._asked: _Asked | None = None
        self._stick = _Stick(None, "")
        self._retired = is_retired(data, owner.edge)
        self._order: bytes | None = None
        """What told this edge to retire, while it could not be made durable."""
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._listener: Told | None = None
        self._journal: Journal | None = None
        self._ended: Ended | None = None
        self._failure = ""
        self._try_open_at = 0
        self._readers: dict[str, ReaderState] = {}
        self._sampled = Stamp(0, 0, trusted=False)
        self._lost_at = Stamp(0, 0, trusted=False)
        self._cards: list[CardRead] = []
        self._entries: list[Entry] = []
        self._roster: Roster | None = None
        self._heard: Heard | None = None
        self._reader_states: tuple[ReaderState, ...] = ()
        self._tally: tuple[int | None, int] = (None, 0)
        """When the check-in opened that is counted, by the hub's clock, and the taps since."""
        self._watching = threading.Lock()
        self._busy_since: int | None = None
        self._stalled = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(self, listener: Told) -> None:
        """Begins to record. A journal that cannot be opened now is tried again and again.

        Raises JournalBusyError and JournalNewerError, which no trying again mends.
        """
        self._listener = listener
        try:
            self._open()
        except (JournalBusyError, JournalNewerError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the door must show it
            self._lose_journal(error)
        self._thread.start()

    def stop(self) -> None:
        """Records what has been read, states where the journal ends, and closes it.

        Stop the readers first: the closing statement says that nothing more was tapped until now.
        """
        self._events.put(_AskState(self._stamp(self._clock.boottime_ms())))
        self._events.put(_Stop())
        self._thread.join(timeout=5)

    def alive(self) -> bool:
        return self._thread.is_alive()

    def watch(self) -> None:
        """Shows red while the storage gives no answer; to be called every second or so.

        Red ends when it does answer: cards that wait get their light then.
        """
        with self._watching:
            if self._stalled or self._busy_since is None:
                return
            if self._clock.boottime_ms() - self._busy_since > STALL_MS:
                self._stalled = True
                log.error("nothing can be recorded: the storage does not answer")
                self._feedback.stand(Standing.CANNOT_RECORD)

    def status(self) -> RecorderStatus:
        """How it is now; from any thread, also while the storage does not answer."""
        now = self._stamp(self._clock.boottime_ms())
        with self._watching:
            stalled = self._stalled
        heard, (counted, taps) = self._heard, self._tally
        opened = self._opened(now)
        known = heard is not None and now.trusted
        return RecorderStatus(
            now.boottime_ms,
            now.wall_ms,
            now.trusted,
            self._reader_states,
            self._failure,
            stalled,
            heard,
            None if known and opened is None else taps if counted == opened else 0,
        )

    def reader_event(self, event: ReaderEvent) -> None:
        """The readers' sink."""
        self._events.put(event)

    def ask(self, wish: Wish, tell: Tell) -> Callable[[], None]:
        """The next card, within WAIT_MS, authorises `wish`; `tell` hears what becomes of it.

        Gives what cancels it. One at a time: who comes second is refused.
        """
        asked = _Asked(wish, tell)
        self._events.put(asked)
        return lambda: self._events.put(_Cancel(asked))

    # what the courier asks: edge.couriers.JournalOwner

    def release(self, epoch: bytes, through: int) -> None:
        self._events.put(_Release(epoch, through))

    def new_generation(self, generation: int) -> None:
        self._events.put(_NewGeneration(generation))

    def alarm(self, reason: str) -> None:
        self._events.put(_Alarm(reason))

    def retire(self, order: bytes) -> None:
        self._events.put(_Retire(order))

    def new_hub_key(self, seal: bytes) -> None:
        self._events.put(_NewHubKey(seal))

    def new_roster(self, roster: Roster) -> None:
        self._events.put(_NewRoster(roster, self._clock.boottime_ms()))

    # what the courier of sticks asks: edge.couriers.usb.Door

    def stick(self, standing: Standing | None, detail: str = "") -> None:
        self._events.put(_Stick(standing, detail))

    def ask_state(self) -> None:
        # Whatever was tapped before `at` has been read, or given up, and put into the queue by
        # now: the answer comes after it.
        now = self._stamp(self._clock.boottime_ms())
        at = max(0, now.boottime_ms - self._settle_ms)
        wall = now.wall_ms - (now.boottime_ms - at)
        self._events.put(_AskState(Stamp(at, wall, now.trusted)))

    # ------------------------------------------------------------------

    def _run(self) -> None:
        going = True
        while going:
            try:
                going = self._turn()
            except JournalError as error:
                self._lose_journal(error)
            except Exception:
                log.exception("the recorder failed and goes on")
        if self._journal is not None:
            self._journal.close()

    def _turn(self) -> bool:
        """Handles what comes next; False once it is time to stop."""
        try:
            event = self._events.get(timeout=TICK_S)
        except queue.Empty:
            event = None
        self._busy(self._clock.boottime_ms())
        try:
            if event is None:
                self._idle()
                going = True
            else:
                going = self._handle(event)
            if self._asked is not None and self._clock.boottime_ms() > self._asked.until_ms:
                self._dismiss(Why.TIMED_OUT)
            return going
        finally:
            self._busy(None)

    def _busy(self, since: int | None) -> None:
        with self._watching:
            self._busy_since = since
            stalled, self._stalled = self._stalled, False
            if stalled:
                self._stand()

    def _handle(self, event: _Event) -> bool:
        match event:
            case CardRead(reader=reader) | CardUnreadable(reader=reader) if self._retired:
                self._feedback.show(Notice(Outcome.RETIRED, reader))
            case CardRead():
                self._card(event)
            case CardUnreadable(reader=reader, reason=reason):
                self._feedback.show(Notice(Outcome.UNREADABLE, reader, reason.wording))
                if self._asked is not None:
                    self._asked.tell(Again(reason.wording))
            case ReaderUp(reader=reader):
                self._entries.append(self._reader(reader, up=True, why=""))
            case ReaderDown(reader=reader, reason=why):
                self._entries.append(self._reader(reader, up=False, why=why))
            case CardSeen() | CardGone():
                pass
            case _Asked():
                self._take(event)
            case _Cancel(asked):
                if asked is self._asked:
                    self._dismiss(Why.CANCELLED)
            case _Stop():
                self._dismiss(Why.STOPPING)
            case _Release(epoch, through):
                if self._journal is not None:
                    self._journal.release(epoch, through)
            case _NewGeneration(generation):
                self._commit()
                if self._journal is not None:
                    self._journal.new_generation(generation)
            case _Retire(order):
                self._retire(order)
            case _Alarm(reason):
                self._commit()
                if self._journal is not None:
                    self._journal.alarm(reason)
            case _NewHubKey(seal):
                self._reseal(seal)
            case _NewRoster(roster, boottime_ms):
                self._roster = roster
                self._heard = Heard.of(roster, boottime_ms)
            case _Stick():
                self._stick = event
                self._stand()
            case _AskState(at):
                self._commit()
                self._tell_state(at)
            case _:
                assert_never(event)
        # One commit serves all that waits.
        if self._events.empty() or len(self._cards) >= MAX_GROUP:
            self._commit()
        return not isinstance(event, _Stop)

    def _take(self, asked: _Asked) -> None:
        if self._journal is None:
            self._open_if_due()
        if self._retired:
            asked.tell(Refused(Why.RETIRED))
        elif self._asked is not None:
            asked.tell(Refused(Why.BUSY))
        elif self._journal is None:
            asked.tell(Refused(Why.CANNOT_RECORD, self._failure))
        elif not any(reader.up for reader in self._readers.values()):
            asked.tell(Refused(Why.NO_READER))
        else:
            asked.since_ms = self._clock.boottime_ms()
            asked.until_ms = asked.since_ms + WAIT_MS
            self._asked = asked
            self._stand()
            asked.tell(Waiting(WAIT_MS // 1000))

    def _retire(self, order: bytes) -> None:
        """Records what was read until now, and nothing after it; durable before it is shown."""
        if self._retired:
            return
        self._commit()
        try:
            keep(self._data, self._owner.edge, order)
        except OSError as error:
            if self._order is None:
                log.error("told to retire, which cannot be kept (%s); tried again", error)  # noqa: TRY400
            self._order = order
            return
        self._order, self._retired = None, True
        log.warning("the hub has told this device to retire: it records nothing any more")
        self._dismiss(Why.RETIRED)
        self._stand()
        self.ask_state()

    def _dismiss(self, why: Why) -> None:
        """Whoever waits for a card does so no more."""
        if self._asked is not None:
            asked, self._asked = self._asked, None
            self._stand()
            asked.tell(Refused(why))

    def _act(self, asked: _Asked, card: CardRead) -> None:
        """Makes the action durable, then shows the light, then answers."""
        self._asked = None
        answer: Answer = Refused(Why.CANNOT_RECORD)
        notice = Notice(Outcome.FAILED, card.reader)
        try:
            self._commit()
            if self._journal is None:
                self._open_if_due()
            if self._journal is None:
                answer = Refused(Why.CANNOT_RECORD, self._failure)
                return
            action = NewAction(
                self._stamp(card.boottime_ms),
                wire_name(card.reader),
                asked.wish.what,
                asked.wish.number,
                card.assurance,
                card.credential,
                asked.wish.about,
            )
            answer = Unknown()
            unsure = f"不能确定是否已记录：{asked.wish.words}，请联系工作人员"
            notice = Notice(Outcome.FAILED, card.reader, unsure)
            head = self._journal.append([action])
            answer = Done(self._journal.epoch.hex(), head)
            notice = Notice(Outcome.ACTED, card.reader, f"已记录：{asked.wish.words}")
            self._acted.recorded(card.credential, card.boottime_ms)
            self._notify(Appended(self._journal.epoch, head))
        except JournalError as error:
            answer = Unknown(str(error))
            self._lose_journal(error)
        finally:
            self._feedback.show(notice)
            self._stand()
            asked.tell(answer)

    def _card(self, event: CardRead) -> None:
        asked = self._asked
        if asked is not None and asked.since_ms <= event.boottime_ms <= asked.until_ms:
            self._act(asked, event)
            return
        if any(each.credential == event.credential for each in self._cards):
            self._commit()
        at = self._stamp(event.boottime_ms)
        if self._debounce.repeats(event.credential, event.boottime_ms, self._opened_ms(at)):
            self._feedback.show(self._repeated_as(event, at))
        elif self._acted.repeats(event.credential, event.boottime_ms):
            self._feedback.show(Notice(Outcome.ACTED, event.reader, ALREADY_ACTED))
        else:
            self._cards.append(event)

    def _reader(self, name: str, *, up: bool, why: str) -> Entry:
        at = self._stamp(self._clock.boottime_ms())
        name = wire_name(name)
        self._readers.pop(name, None)
        self._readers[name] = ReaderState(name, up, at.boottime_ms)
        while len(self._readers) > MAX_READERS:  # the one not heard of for longest
            del self._readers[next(iter(self._readers))]
        self._reader_states = tuple(self._readers.values())
        self._stand()
        if up:
            return entries.ReaderUp(at, name)
        return entries.ReaderDown(at, name, why[: entries.MAX_REASON_CHARS])

    def _commit(self) -> None:
        """Makes durable what waits, then shows the lights."""
        cards, self._cards = self._cards, []
        others, self._entries = self._entries, []
        if self._retired:
            others = []
        if not cards and not others:
            return
        if self._journal is None:
            self._open_if_due()
        if self._journal is None:
            self._show_failed(cards)
            return
        try:
            taps = [
                NewTap(
                    self._stamp(card.boottime_ms),
                    wire_name(card.reader),
                    card.assurance,
                    card.credential,
                )
                for card in cards
            ]
            head = self._journal.append([*others, *taps])
        except JournalError as error:
            self._show_failed(cards)
            self._lose_journal(error)
            return
        except Exception:
            self._show_failed(cards)  # a bug of ours is no reason to leave a member in the dark
            raise
        for card, tap in zip(cards, taps, strict=True):
            self._feedback.show(self._recorded_as(card, tap.at))
            self._debounce.recorded(card.credential, card.boottime_ms)
            self._count(tap.at)
        self._notify(Appended(self._journal.epoch, head))

    def _recorded_as(self, card: CardRead, at: Stamp) -> Notice:
        """The light for a tap that is durable: neutral wherever there is nothing to know it by."""
        if at.trusted and card.valid is not None and not card.valid.holds(at.wall_ms):
            return Notice(Outcome.UNKNOWN, card.reader, OUT_OF_DATE)
        if self._roster is None or not at.trusted:
            return Notice(Outcome.RECORDED, card.reader)
        match self._roster.known(card.credential, at.wall_ms):
            case Known.EXPECTED:
                return Notice(Outcome.RECOGNISED, card.reader)
            case Known.STRANGE:
                return Notice(Outcome.UNKNOWN, card.reader)
            case Known.SILENT:
                return Notice(Outcome.RECORDED, card.reader)

    def _repeated_as(self, card: CardRead, at: Stamp) -> Notice:
        """The light for a card that was recorded a moment ago: what is to be checked stays so."""
        match self._recorded_as(card, at).outcome:
            case Outcome.UNKNOWN:
                return Notice(Outcome.UNKNOWN, card.reader, ALREADY_UNKNOWN)
            case Outcome.RECOGNISED:
                return Notice(Outcome.ALREADY, card.reader, ALREADY_RECOGNISED)
            case _:
                return Notice(Outcome.ALREADY, card.reader)

    def _count(self, at: Stamp) -> None:
        opened = self._opened(at)
        counted, taps = self._tally
        self._tally = (opened, taps + 1 if counted == opened else 1)

    def _opened(self, at: Stamp) -> int | None:
        """When check-in opened last, by the hub's clock; None where that is not known."""
        roster = self._roster
        return None if roster is None or not at.trusted else roster.opened_ms(at.wall_ms)

    def _opened_ms(self, at: Stamp) -> int | None:
        """When check-in opened last here, by CLOCK_BOOTTIME; None where that is not known."""
        opened_ms = self._opened(at)
        return None if opened_ms is None else at.boottime_ms - (at.wall_ms - opened_ms)

    def _show_failed(self, cards: list[CardRead]) -> None:
        for card in cards:
            self._feedback.show(Notice(Outcome.FAILED, card.reader))

    def _idle(self) -> None:
        if self._order is not None:
            self._retire(self._order)
        if self._journal is None:
            if self._open_if_due():
                self._commit()
            return
        self._sample_clock(self._journal)
        for epoch, first in self._journal.flush(self._clock.boottime_ms()):
            self._notify(Pruned(epoch, first))

    def _sample_clock(self, journal: Journal) -> None:
        """Notes when the clock becomes trusted, loses trust, or is stepped."""
        if self._retired:
            return
        now = self._stamp(self._clock.boottime_ms())
        before = self._sampled
        drift = (now.wall_ms - now.boottime_ms) - (before.wall_ms - before.boottime_ms)
        if now.trusted != before.trusted or abs(drift) > STEP_MS:
            self._sampled = now
            self._notify(Appended(journal.epoch, journal.append([ClockSample(now)])))

    def _tell_state(self, at: Stamp) -> None:
        if self._journal is not None:
            self._notify(
                JournalState(
                    self._journal.epoch,
                    self._journal.head,
                    self._journal.digest,
                    at,
                    tuple(self._readers.values()),
                    self._retired,
                )
            )

    def _open(self) -> None:
        self._sampled = self._stamp(self._clock.boottime_ms())
        self._journal = Journal.open(
            self._data, self._owner, self._clock.boot_id(), self._sampled, self._keep, self._ended
        )
        self._failure = ""
        self._notify(Opened(self._journal.epoch, self._journal.header_bytes))
        self._stand()

    def _reseal(self, hub_seal: bytes) -> None:
        """A new epoch, under the hub's new key; nothing is lost between the two."""
        self._commit()
        self._owner = replace(self._owner, hub_seal=hub_seal)
        if self._journal is None:
            return
        self._journal.close()
        self._journal = None
        try:
            self._open()
        except Exception as error:  # noqa: BLE001 - whatever it is, the door must show it
            self._lose_journal(error)
            return
        self._entries += [
            entries.ReaderUp(self._sampled, each.name) for each in self._readers.values() if each.up
        ]

    def _open_if_due(self) -> bool:
        now = self._clock.boottime_ms()
        if now < self._try_open_at:
            return False
        self._try_open_at = now + REOPEN_EVERY_MS
        try:
            self._open()
        except Exception as error:  # noqa: BLE001 - whatever it is, cards that wait must show red
            self._lose_journal(error)
            return False
        log.warning("the journal records again, in a new epoch")
        # Whoever was shown red meanwhile is in no journal: what silence means must be readable.
        self._entries = [
            entries.ReaderDown(self._lost_at, each.name, NOT_RECORDING)
            for each in self._readers.values()
        ]
        self._entries += [
            entries.ReaderUp(self._sampled, each.name) for each in self._readers.values() if each.up
        ]
        return True

    def _lose_journal(self, error: Exception) -> None:
        failure = str(error) or type(error).__name__
        if failure != self._failure:
            expected = isinstance(error, JournalError)
            log.error("nothing can be recorded: %s", failure, exc_info=None if expected else error)
        if not self._failure:
            self._lost_at = self._stamp(self._clock.boottime_ms())
        self._failure = failure
        if self._journal is not None:
            self._ended = self._journal.ended()
            self._journal.close()
            self._journal = None
        self._stand()

    def _stand(self) -> None:
        # Red stays red: of a stick it tells beside.
        stick = self._stick.standing
        beside = "" if stick is None else stick.wording
        if self._retired:
            self._feedback.stand(Standing.RETIRED, beside)
        elif self._journal is None:
            self._feedback.stand(Standing.CANNOT_RECORD, beside)
        elif not any(reader.up for reader in self._readers.values()):
            self._feedback.stand(Standing.NO_READER, beside)
        elif stick is not None and self._asked is None:
            self._feedback.stand(stick, self._stick.detail)
        elif self._asked is not None:
            self._feedback.stand(Standing.AWAITING, self._asked.wish.words)
        else:
            self._feedback.stand(Standing.READY)

    def _stamp(self, boottime_ms: int) -> Stamp:
        """Both clocks as they stood at `boottime_ms`.

        The wall clock may be stepped between any two lines here: a trust that came with the step
        must not be said of the time before it, nor the one before of the time after it.
        """
        before = self._offset()
        trusted = self._clock.trusted()
        offset = self._offset()
        wall_ms = min(max(boottime_ms + offset, EARLIEST_WALL_MS), MAX_TIME_MS)
        return Stamp(boottime_ms, wall_ms, trusted and abs(offset - before) <= STEP_MS)

    def _offset(self) -> int:
        """Wall clock less time since boot."""
        return self._clock.wall_ms() - self._clock.boottime_ms()

    def _notify(self, event: JournalEvent) -> None:
        if self._listener is not None:
            self._listener.tell(event)
