"""Virtual readers to try an edge with by hand: `.venv/bin/python -m tests.rig`.

Prints what the edge needs in its environment, then holds a card to a reader for each line that is
typed: its UID in hex, or a reader's number and the UID. Ends with the input or Ctrl-C.
"""

import argparse
import sys
from contextlib import ExitStack, suppress

from tests.rig import Pcscd, UidCard, VirtualReader, private_dir


def main() -> None:
    """Runs until the input ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.rig", description=__doc__)
    parser.add_argument("--readers", type=int, default=1, metavar="N", help="1 to 8 (default 1)")
    slots = parser.parse_args().readers
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        pcscd = stack.enter_context(Pcscd(stack.enter_context(private_dir()) / "p", slots))
        readers = [stack.enter_context(VirtualReader(port)) for port in pcscd.ports]
        numbered = {str(at): each for at, each in enumerate(readers, 1)}
        for name, value in pcscd.env.items():
            print(f"export {name}={value}")
        print(
            "A card: its UID, such as 04A1B2C3, or with a reader's number: 2 04A1B2C3", flush=True
        )
        for line in sys.stdin:
            *which, uid = line.split() or [""]
            try:
                reader = numbered[which[0] if which else "1"]
                card = UidCard(bytes.fromhex(uid))
            except (ValueError, KeyError):
                print("that is no UID in hex, or no reader of that number", flush=True)
                continue
            if uid:
                print("read" if reader.tap(card) else "nobody looked", flush=True)


if __name__ == "__main__":
    main()
