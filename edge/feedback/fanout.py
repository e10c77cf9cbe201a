"""Passes feedback to several outputs without ever waiting for one.

Each output has its own thread and a bounded queue: a slow output delays neither the next card,
nor the journal, nor the other outputs; when its queue is full its oldest notice is dropped, since
a light that comes late is a light for the wrong person. The latest standing is never dropped. An
output that raises is logged once until it works again, and goes on being used.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from edge.feedback import Feedback, Notice, Standing

DEFAULT_LIMIT: Final = 16
_STOP_S: Final = 2.0

_log = logging.getLogger(__name__)


class Fanout:
    """Feedback over `outputs`; `limit` notices may wait for each."""

    def __init__(self, outputs: Sequence[Feedback], *, limit: int = DEFAULT_LIMIT) -> None:
        self._lanes = tuple(_Lane(output, limit) for output in outputs)

    def show(self, notice: Notice) -> None:
        """Hands `notice` to each output; returns at once."""
        for lane in self._lanes:
            lane.put(notice)

    def stand(self, standing: Standing, detail: str = "") -> None:
        """Hands the standing to each output; returns at once."""
        for lane in self._lanes:
            lane.put_standing(standing, detail)

    def stop(self) -> None:
        """Lets the outputs show what waits, for a bounded time, and ends the threads that can."""
        deadline = time.monotonic() + _STOP_S
        for lane in self._lanes:
            lane.close()
        for lane in self._lanes:
            lane.thread.join(max(0.0, deadline - time.monotonic()))


class _Lane:
    def __init__(self, output: Feedback, limit: int) -> None:
        self._output = output
        self._name = type(output).__name__
        self._changed = threading.Condition()
        self._notices: deque[Notice] = deque(maxlen=limit)
        self._standing: tuple[Standing, str] | None = None
        self._closed = False
        self._failing = False  # of this lane's thread alone
        self.thread = threading.Thread(target=self._run, name=f"show {self._name}", daemon=True)
        self.thread.start()

    def put(self, notice: Notice) -> None:
        with self._changed:
            if self._closed:
                return
            self._notices.append(notice)
            self._changed.notify()

    def put_standing(self, standing: Standing, detail: str) -> None:
        with self._changed:
            if self._closed:
                return
            self._standing = (standing, detail)
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while (item := self._next()) is not None:
            try:
                if isinstance(item, Notice):
                    self._output.show(item)
                else:
                    self._output.stand(*item)
            except Exception as error:  # noqa: BLE001 - an output's fault stays its own
                self._note_failure(error)
            else:
                self._note_success()

    def _next(self) -> Notice | tuple[Standing, str] | None:
        """The next thing to show, notices first; None when closed and nothing waits."""
        with self._changed:
            while True:
                if self._notices:
                    return self._notices.popleft()
                if self._standing is not None:
                    standing, self._standing = self._standing, None
                    return standing
                if self._closed:
                    return None
                self._changed.wait()

    def _note_failure(self, error: Exception) -> None:
        if not self._failing:
            _log.error("the output %s fails: %r", self._name, error)
        self._failing = True

    def _note_success(self) -> None:
        if self._failing:
            _log.info("the output %s works again", self._name)
        self._failing = False
