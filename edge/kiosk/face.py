"""The screen's memory: takes feedback like a lamp does, and gives what there is to show now.

Every call returns at once, from any thread. What a card brought is shown for RESULT_MS, and a new
card takes the place of the one before. Here actions are asked for at the screen, one at a time.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, assert_never

from edge.acts import WAIT_MS, Again, Answer, Done, Refused, Tell, Unknown, Waiting, Why, Wish
from edge.clock import Clock
from edge.feedback import Notice, Standing
from edge.kiosk.screen import Asked, Screen, Told, Undone, screen
from edge.status import CourierStatus, RecorderStatus

RESULT_MS: Final = 2_500


class Recording(Protocol):
    """What the face asks of the recorder."""

    def status(self) -> RecorderStatus: ...

    def ask(self, wish: Wish, tell: Tell) -> Callable[[], None]: ...


class Carrying(Protocol):
    """What the face asks of the courier."""

    def status(self) -> CourierStatus: ...


class NotNowError(Exception):
    """Nothing can be asked for now; the message says why in plain Chinese."""


@dataclass(slots=True, eq=False)
class _Ask:
    wish: Wish
    until_ms: int
    waits: bool = False
    cancel: Callable[[], None] = lambda: None


class Face:
    """A `Feedback` that remembers. `on_change` is called by any thread, and returns at once."""

    def __init__(
        self,
        clock: Clock,
        on_change: Callable[[], None] = lambda: None,
        *,
        rehearsing: bool = False,
    ) -> None:
        self.on_change = on_change
        self._rehearsing = rehearsing
        self._clock = clock
        self._lock = threading.Lock()
        self._recorder: Recording | None = None
        self._courier: Carrying | None = None
        self._standing: Standing | None = None
        self._detail = ""
        self._news: Notice | Undone | None = None
        self._news_ms = 0
        self._serial = 0
        self._ask: _Ask | None = None

    def attach(self, recorder: Recording, courier: Carrying) -> None:
        """From now on there is somebody to ask."""
        with self._lock:
            self._recorder, self._courier = recorder, courier
        self.on_change()

    # edge.feedback.Feedback

    def show(self, notice: Notice) -> None:
        self._tell(notice)

    def stand(self, standing: Standing, detail: str = "") -> None:
        with self._lock:
            self._standing, self._detail = standing, detail
        self.on_change()

    # what pages ask

    def screen(self) -> tuple[Screen, int]:
        """What there is to show now, and in how many milliseconds that ends by itself at the
        latest.
        """
        now = self._clock.boottime_ms()
        with self._lock:
            left = self._news_ms + RESULT_MS - now
            if left <= 0:
                self._news = None
            ask = self._ask
            asked = None
            if ask is not None and ask.waits:
                asked = Asked(ask.wish.words, max(0, -(-(ask.until_ms - now) // 1000)))
            told = Told(
                self._standing, self._detail, self._news, self._serial, asked, self._rehearsing
            )
            recorder, courier = self._recorder, self._courier
        shown = screen(
            told,
            None if recorder is None else recorder.status(),
            None if courier is None else courier.status(),
        )
        return shown, left if told.news is not None else RESULT_MS

    def failure(self) -> str:
        """Why nothing can be recorded, in English; empty where that is not so."""
        with self._lock:
            recorder = self._recorder
        return "" if recorder is None else recorder.status().failure

    def ask(self, wish: Wish) -> None:
        """Asks the recorder for it; what becomes of it is shown. Raises NotNowError."""
        with self._lock:
            recorder = self._recorder
            if recorder is None:
                raise NotNowError("设备未登记，无法记录")
            if self._ask is not None:
                raise NotNowError("另一项操作正在等待刷卡")
            ask = self._ask = _Ask(wish, self._clock.boottime_ms() + WAIT_MS)
        # Not within the lock: the answer may come while we are still here.
        ask.cancel = recorder.ask(wish, lambda answer: self._answered(ask, answer))

    def cancel(self) -> None:
        """Ends what waits for a card, if anything does; the card may have come first."""
        with self._lock:
            ask = self._ask
        if ask is not None:
            ask.cancel()

    # ------------------------------------------------------------------

    def _tell(self, news: Notice | Undone) -> None:
        with self._lock:
            self._news, self._news_ms = news, self._clock.boottime_ms()
            self._serial += 1
        self.on_change()

    def _answered(self, ask: _Ask, answer: Answer) -> None:
        match answer:
            case Waiting():
                with self._lock:
                    ask.waits, ask.until_ms = True, self._clock.boottime_ms() + WAIT_MS
                self.on_change()
                return
            case Again():
                return  # a notice says the same
            case Done() | Unknown() | Refused():
                with self._lock:
                    if self._ask is ask:
                        self._ask = None
            case _:
                assert_never(answer)
        if isinstance(answer, Refused):
            self._tell(Undone(why(answer.why)))
        else:
            self.on_change()  # a notice says what became of it


def why(reason: Why) -> str:
    """Why an action was not recorded, for the screen."""
    match reason:
        case Why.INVALID:
            return "填写有误"
        case Why.BUSY:
            return "另一项操作正在等待刷卡，请稍后再试"
        case Why.NO_READER:
            return "读卡器未连接"
        case Why.CANNOT_RECORD:
            return "存储故障，无法记录"
        case Why.RETIRED:
            return "设备已退役"
        case Why.TIMED_OUT:
            return f"{WAIT_MS // 1000} 秒内没有读到卡"
        case Why.CANCELLED:
            return "已取消"
        case Why.STOPPING:
            return "设备正在停止"
        case _:
            assert_never(reason)
