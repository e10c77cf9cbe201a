"""The process that talks to an NFC chip by nfcpy: it serves the cards of one reader.

nfcpy is an optional extra. Where it is missing, or the library for USB that it needs, the worker
says so for as long as it lives.
"""

import logging
import time
from typing import NoReturn

from edge.readers import Down
from edge.readers.lines import Alive, ListReaders, ServeReader, Trouble
from edge.readers.worker import begin, say


def main() -> NoReturn:
    """Does the task that its supervisor gives it; ends only with its supervisor."""
    match begin():
        case ListReaders():
            raise SystemExit("NFC readers are configured, not listed")
        case ServeReader() as task:
            pass
    logging.disable()  # nfcpy's own words, at each look at a chip that does not answer
    try:
        from edge.readers.nfc_polling import serve  # noqa: PLC0415
    except (ImportError, OSError) as error:  # OSError: libusb is missing
        _keep_saying(f"nfcpy cannot be used ({error}); install shuaka[edge-nfc] and libusb-1.0-0")
    serve(task)


def _keep_saying(what: str) -> NoReturn:
    say(Trouble(Down.FAILED, what))
    while True:
        time.sleep(2)
        say(Alive())


if __name__ == "__main__":
    main()
