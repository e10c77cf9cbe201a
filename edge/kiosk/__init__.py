"""The screen at the door: a page that a browser on this machine shows full-screen.

`open_kiosk` starts it where the configuration asks for it. It is an output like lamp and buzzer,
needs the extra `edge-kiosk`, and whatever becomes of it, cards are recorded.
"""

import logging
from typing import TYPE_CHECKING

from edge.clock import SystemClock
from edge.config import Config
from edge.kiosk.face import Face

if TYPE_CHECKING:
    from edge.kiosk.server import Kiosk

__all__ = ["Face", "open_kiosk"]

log = logging.getLogger(__name__)


def open_kiosk(config: Config) -> "Kiosk | None":
    """The screen, started; None where none is asked for, or none can be."""
    if config.kiosk.port is None:
        return None
    try:
        from edge.kiosk.server import Kiosk  # noqa: PLC0415 - only who has a screen needs it
    except ImportError as error:
        log.error(  # noqa: TRY400
            "there is no screen: %s is not installed; install shuaka[edge-kiosk], or leave"
            " kiosk.port out of the configuration",
            error.name,
        )
        return None
    kiosk = Kiosk(config, Face(SystemClock(config.clock.trust)), config.kiosk.port)
    kiosk.start()
    return kiosk
