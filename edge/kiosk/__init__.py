"""The screen at the door: a page that a browser on this machine shows full-screen.

It is an output like lamp and buzzer, needs the extra `edge-kiosk`, and whatever becomes of it,
cards are recorded: also what it takes to load the web server delays nothing.
"""

import logging
import threading
from typing import TYPE_CHECKING, Final

from edge.clock import SystemClock
from edge.config import Config
from edge.kiosk.face import Face

if TYPE_CHECKING:
    from edge.kiosk.server import Kiosk

STOP_S: Final = 3.0

log = logging.getLogger(__name__)


class Screen:
    """What is shown (`face`) and who shows it, on `port`, once that has been loaded."""

    def __init__(self, config: Config, port: int, *, rehearsing: bool = False) -> None:
        self.face = Face(SystemClock(config.clock.trust), rehearsing=rehearsing)
        self._config = config
        self._port = port
        self._kiosk: Kiosk | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._open, name="open the screen", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=STOP_S)
        if self._kiosk is not None:
            self._kiosk.stop()

    def _open(self) -> None:
        try:
            from edge.kiosk.server import Kiosk  # noqa: PLC0415 - only who has a screen needs it

            kiosk = Kiosk(self._config, self.face, self._port)
        except ImportError as error:
            log.error(  # noqa: TRY400
                "there is no screen: %s is not installed; install shuaka[edge-kiosk], or leave"
                " kiosk.port out of the configuration",
                error.name,
            )
        except OSError as error:
            log.error("there is no screen: %s", error)  # noqa: TRY400
        else:
            if not self._stopping.is_set():
                self._kiosk = kiosk
                kiosk.start()


def open_kiosk(config: Config, *, rehearsing: bool = False) -> Screen | None:
    """The screen, started; None where none is asked for. `rehearsing`: it says so all the time."""
    if config.kiosk.port is None:
        return None
    screen = Screen(config, config.kiosk.port, rehearsing=rehearsing)
    screen.start()
    return screen
