"""The rehearsed process with a defect planted in the product's own parts: `DEFECT` as argument."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from edge.feedback import Notice, Outcome, Standing
from edge.recorder import Recorder
from edge.rehearsal import child
from edge.store import Journal, JournalError, NewTap
from protocol.journal import Stamp

_append = Journal.append
_commit = Recorder._commit
_stamp = Recorder._stamp
_show = child._Outside.show
_taps = 0


def _is_turn(items: Sequence[Any], every: int) -> bool:
    """Whether among these is a tap, and it is each so manyth."""
    global _taps  # noqa: PLW0603
    _taps += any(isinstance(each, NewTap) for each in items)
    return any(isinstance(each, NewTap) for each in items) and _taps % every == 0


def lights_before_the_commit() -> None:
    def commit(self: Recorder) -> None:
        for card in self._cards:
            self._feedback.show(Notice(Outcome.RECORDED, card.reader))
        _commit(self)

    Recorder._commit = commit  # type: ignore[method-assign]


def forgets_a_tap() -> None:
    def append(self: Journal, items: Sequence[Any]) -> int:
        if _is_turn(items, 2):
            items = [each for each in items if not isinstance(each, NewTap)]
        return _append(self, items)

    Journal.append = append  # type: ignore[method-assign]


def writes_a_tap_later() -> None:
    kept: list[Any] = []

    def append(self: Journal, items: Sequence[Any]) -> int:
        nonlocal kept
        now, kept = [*kept, *(e for e in items if not isinstance(e, NewTap))], []
        kept = [each for each in items if isinstance(each, NewTap)]
        return _append(self, now)

    Journal.append = append  # type: ignore[method-assign]


def writes_a_tap_twice() -> None:
    def append(self: Journal, items: Sequence[Any]) -> int:
        return _append(self, [*items, *items] if _is_turn(items, 2) else items)

    Journal.append = append  # type: ignore[method-assign]


def cannot_write() -> None:
    def append(self: Journal, items: Sequence[Any]) -> int:
        if _is_turn(items, 2):
            raise JournalError("the storage is full")
        return _append(self, items)

    Journal.append = append  # type: ignore[method-assign]


def shows_no_light() -> None:
    def show(self: Any, notice: Notice) -> None:
        if not _is_turn([NewTap(None, "", 0, None)], 2):  # type: ignore[arg-type]
            _show(self, notice)

    child._Outside.show = show  # type: ignore[method-assign]


def trusts_any_clock() -> None:
    def stamp(self: Recorder, boottime_ms: int) -> Stamp:
        at = _stamp(self, boottime_ms)
        return Stamp(at.boottime_ms, at.wall_ms, trusted=True)

    Recorder._stamp = stamp  # type: ignore[method-assign]


def is_ready_without_a_reader() -> None:
    def stand(self: Recorder) -> None:
        self._feedback.stand(Standing.READY)

    Recorder._stand = stand  # type: ignore[method-assign]


def ends_by_itself() -> None:
    def append(self: Journal, items: Sequence[Any]) -> int:
        if _is_turn(items, 2):
            os._exit(3)
        return _append(self, items)

    Journal.append = append  # type: ignore[method-assign]


def does_not_start() -> None:
    os._exit(4)


def does_nothing_wrong() -> None:
    pass


if __name__ == "__main__":
    planted: Callable[[], None] = globals()[sys.argv[1]]
    planted()
    child.main()
