"""Feedback as lines of text: for a terminal, a log, and tests.

One line each: local time, symbol, colour word, message, and a detail in brackets, for example
`19:31:05 ✔ 绿 签到成功`. Colours only on a terminal. A standing is told when it changes.
"""

import sys
from collections.abc import Callable
from datetime import datetime
from typing import Final, TextIO

from edge.feedback import Light, Notice, Standing

_ANSI: Final = {
    Light.GREEN: "\x1b[1;32m",
    Light.NEUTRAL: "\x1b[1;37m",
    Light.AMBER: "\x1b[1;33m",
    Light.RED: "\x1b[1;31m",
    Light.RED_BLINKING: "\x1b[1;5;31m",
}
_PLAIN: Final = "\x1b[0m"


class Console:
    """Writes to `output` (standard output unless given) and flushes each line."""

    def __init__(
        self, output: TextIO | None = None, now: Callable[[], datetime] | None = None
    ) -> None:
        self._output = sys.stdout if output is None else output
        self._now = now or (lambda: datetime.now().astimezone())
        self._colour = self._output.isatty()
        self._stood: tuple[Standing, str] | None = None

    def show(self, notice: Notice) -> None:
        """Writes one line."""
        outcome = notice.outcome
        self._write(outcome.symbol, outcome.light, notice.message)

    def stand(self, standing: Standing, detail: str = "") -> None:
        """Writes one line if this is not what it wrote last."""
        if self._stood == (standing, detail):
            return
        self._stood = (standing, detail)
        self._write(standing.symbol, standing.light, standing.wording, detail)

    def _write(self, symbol: str, light: Light, message: str, detail: str = "") -> None:
        mark = f"{symbol} {light.value}"
        if self._colour:
            mark = f"{_ANSI[light]}{mark}{_PLAIN}"
        more = f"（{detail}）" if detail else ""
        line = f"{self._now():%H:%M:%S} {mark} {message}{more}"
        print(" ".join(line.splitlines()), file=self._output, flush=True)
