"""Cards at the desk, all real: the command on a terminal, a card at pcscd, the hub."""

import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx
import pytest
from sqlalchemy import create_engine, make_url, text

from tests.e2e.venue import Venue
from tests.rig import UidCard, find_program, wait_for

PROGRAM = Path(sys.executable).parent / "shuaka-edge"
SECRETARY = "04B108CBF27734"
"""The card of M001 in the demo's district."""


@pytest.fixture
def venue(rig_dir: Path) -> Iterator[Venue]:
    with Venue(rig_dir) as venue:
        yield venue


class Terminal:
    """A command on a pseudo-terminal: what it shows, and somebody who types."""

    def __init__(self, venue: Venue, *arguments: str) -> None:
        master, slave = pty.openpty()
        token = venue.hub.directory / "station"
        token.touch(mode=0o600)
        if not token.read_text("utf-8"):
            made = venue.hub.command("token", "add", "台", "--org", "QX-01", "--role", "支部书记")
            token.write_text(made, "utf-8")
        self.token = token.read_text("utf-8").strip()
        self._master = master
        self._shown = b""
        self.process = subprocess.Popen(
            [
                # so that Ctrl-C reaches it, also where whoever started the tests ignores it
                *(find_program("env", "coreutils"), "--default-signal=INT"),
                *(find_program("setsid", "util-linux"), "--ctty"),
                *(PROGRAM, "issue", "--config", venue.edge.config),
                *("--hub", venue.hub.url, "--token-file", token, *arguments),
            ],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, **venue.pcscd.env},
        )
        os.close(slave)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        self._cursor = 0

    @property
    def shown(self) -> str:
        return self._shown.decode("utf-8", "replace").replace("\r\n", "\n")

    def hears(self, words: str) -> None:
        wait_for(lambda: re.search(words, self.shown[self._cursor :]) is not None, words, 20)
        found = re.search(words, self.shown[self._cursor :])
        assert found
        self._cursor += found.end()

    def types(self, line: str) -> None:
        os.write(self._master, f"{line}\n".encode())

    def end(self) -> int:
        status = self.process.wait(15)
        self._thread.join(5)
        os.close(self._master)
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.end()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._master, 4096)
            except OSError:  # the other side has gone
                return
            if not part:
                return
            self._shown += part


def owner(venue: Venue, uid: str) -> list[tuple[str, str]]:
    """(member, status) of the card with this number, from the hub's database."""
    engine = create_engine(make_url(venue.hub.database))
    with engine.connect() as conn:
        rows = conn.execute(
            text(
                "SELECT members.code, cards.status FROM credentials"
                " JOIN cards ON cards.id = credentials.card_id"
                " JOIN bindings ON bindings.card_id = cards.id AND valid_to_ms IS NULL"
                " JOIN members ON members.id = member_id WHERE value = :value"
            ),
            {"value": uid},
        )
        found = [tuple(row) for row in rows]
    engine.dispose()
    return found


def test_cards_are_issued_at_a_terminal_and_by_the_page(venue: Venue, tmp_path: Path) -> None:
    new, next_, third = (venue.ledger.next_card() for _ in range(3))
    venue.edge.stop()
    with Terminal(venue) as desk:
        desk.hears("Reader Rig 0 00 00 is ready")
        venue.reader.tap_until_read(UidCard(bytes.fromhex(SECRETARY)))
        desk.hears("Card …7734: 已登记 BOUND, 郑建国 M001")
        venue.reader.tap_until_read(UidCard(bytes.fromhex(new)))
        desk.hears(f"Whose is …{new[-4:]}")
        desk.types("guohongwei")
        desk.hears("郭宏伟 M002, .* has a card already")
        desk.types("replace")
        desk.hears("Bind .* to 郭宏伟 M002")
        desk.types("yes")
        desk.hears("Bound: ")
        assert owner(venue, new) == [("M002", "ACTIVE")]
        desk.types("undo")
        desk.hears("Undone: ")
        assert owner(venue, new) == []
        # The hub dies under it: said, and gone on with.
        venue.hub.kill()
        venue.reader.tap_until_read(UidCard(bytes.fromhex(new)))
        desk.hears("cannot be reached: .* hold the card to the reader again")
        venue.hub.start()
        desk.types("quit")
        assert desk.end() == 0
        assert all(number not in desk.shown for number in (new, SECRETARY, desk.token))
    names = tmp_path / "list.csv"
    names.write_text("code\nM003\nM004\n", "utf-8")
    with Terminal(venue, "--list", str(names)) as desk:
        for uid, progress in ((new, "0/2"), (next_, "1/2")):
            desk.hears(f"{progress} done. Next: ")
            venue.reader.tap_until_read(UidCard(bytes.fromhex(uid)))
            desk.hears("has a card already")
            desk.types("lost")
            desk.hears("Bound")
        desk.hears("2/2 done: all of the list")
        assert desk.end() == 0
        assert new not in desk.shown
    assert (owner(venue, new), owner(venue, next_)) == ([("M003", "ACTIVE")], [("M004", "ACTIVE")])
    with Terminal(venue, "--station") as desk, httpx.Client(trust_env=False) as page:
        desk.hears("/cards/desk")
        first = venue.hub.account("shuji", "支部书记", "QX-01", "--member", "M001")
        venue.hub.sign_in(page, "shuji", first)
        venue.reader.tap_until_read(UidCard(bytes.fromhex(third)))
        desk.hears(f"…{third[-4:]}: 未登记 UNKNOWN")
        shown = page.get(f"{venue.hub.url}/cards/desk").text
        assert f">{third[-4:]}<" in shown
        assert third not in shown
        desk.types("\x03")
        assert desk.end() == 130
        assert "Traceback" not in desk.shown
