"""The desk station against a real hub over HTTP: cards by simulated readers, lines as if typed."""

import json
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from edge import desk as asking
from edge import issue as module
from edge import request
from edge.batch import read_list
from edge.desk import Desk as Client
from edge.desk import IssueError, Reading, read_token
from edge.issue import issue
from edge.readers import Down, Unreadable
from edge.readers.simulated import Plug, Present, Remove, SimulatedReaders, Step, Unplug
from hub.auth.tokens import new_token
from hub.domain.terms import Role
from hub.store import schema as s
from hub.store.engine import migrate, open_engine
from hub.store.engine import reading as reads
from protocol.credential import Credential
from tests.hub.site import Site, serving
from tests.hub.world import LONG_AGO, minutes, public_id
from tests.rig import wait_for

CARD, OTHER, THIRD = "04FEEDFACE1234", "04FEEDFACE5678", "04FEEDFACE9ABC"
READER = "桌上"


@dataclass
class Desk:
    """A person at the station: holds cards to it, types, and reads what it says."""

    folder: Path
    site: Site
    url: str
    said: list[str] = field(default_factory=list)
    error: BaseException | None = None
    cursor: int = 0

    def __post_init__(self) -> None:
        self.token_file = self.folder / "token"
        self.token_file.write_text(self.site.tokens["甲"] + "\n", "utf-8")
        self.token_file.chmod(0o600)

    @contextmanager
    def at_work(self, url: str = "", **options: Any) -> Iterator[None]:
        steps: queue.Queue[Step | None] = queue.Queue()
        self.steps = steps
        steps.put(Plug(READER))
        readers = SimulatedReaders(iter(steps.get, None), lambda: 1)
        read_end, write_end = os.pipe()
        lines = os.fdopen(read_end, encoding="utf-8")
        self.keyboard = os.fdopen(write_end, "w", encoding="utf-8")

        def run() -> None:
            try:
                issue(
                    self.folder / "data",
                    [readers],
                    url or self.url,
                    self.token_file,
                    lines,
                    self.said.append,
                    **options,
                )
            except BaseException as error:  # noqa: BLE001 - told in the test's own thread
                self.error = error

        self.error = None
        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        try:
            yield
        finally:
            steps.put(None)
            with lines:
                self.leave()

    def leave(self) -> None:
        """Nothing more is typed."""
        self.keyboard.close()
        self.thread.join(10)
        assert not self.thread.is_alive(), self.said[-3:]
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def hears(self, *words: str) -> str:
        """The next line with all of these words; what was before is behind us."""

        def found() -> int | None:
            for at in range(self.cursor, len(self.said)):
                if all(word in self.said[at] for word in words):
                    return at
            return None

        wait_for(lambda: found() is not None or not self.thread.is_alive(), f"words {words}", 10)
        at = found()
        assert at is not None, (words, self.said[self.cursor :], self.error)
        self.cursor = at + 1
        return self.said[at]

    def holds(self, card: str | Unreadable) -> None:
        credential = Credential("uid", "", card) if not isinstance(card, Unreadable) else card
        self.steps.put(Present(READER, credential))
        self.steps.put(Remove(READER))

    def types(self, *lines: str) -> None:
        for line in lines:
            self.keyboard.write(line + "\n")
        self.keyboard.flush()

    def owners(self) -> dict[str, str]:
        """Last characters -> member, of the cards in use."""
        with reads(self.site.engine) as conn:
            rows = conn.execute(
                select(s.credentials.c.value, s.members.c.code, s.cards.c.status)
                .join(s.cards, s.cards.c.id == s.credentials.c.card_id)
                .join(s.bindings, s.bindings.c.card_id == s.cards.c.id)
                .join(s.members, s.members.c.id == s.bindings.c.member_id)
                .where(s.bindings.c.valid_to_ms.is_(None), s.cards.c.status == "ACTIVE")
            )
            return {row.value[-4:]: row.code for row in rows if row.value.startswith("04FEED")}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{tmp_path / 'hub.db'}")
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def desk(engine: Engine, tmp_path: Path) -> Iterator[Desk]:
    site = Site(engine, now_ms=minutes(20))
    with engine.begin() as conn:
        world = site.world(conn)
        for code in ("新一", "新二", "新三"):
            world.member(code, "甲")
    with serving(site.app) as (url, _):
        desk = Desk(tmp_path, site, url)
        yield desk
        whole = "\n".join(desk.said)
        for number in (CARD, OTHER, THIRD):
            assert number not in whole
            assert number[:-4] not in whole
        assert site.tokens["甲"] not in whole


# --- card after card ------------------------------------------------------------------------------


def test_a_card_is_bound_to_whom_somebody_names(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    with desk.at_work():
        desk.hears("Reader 桌上 is ready")
        desk.holds(CARD)
        assert "未登记 UNKNOWN" in desk.hears("…1234")
        desk.types("新一")
        desk.hears("Bind …1234 to 新一名 新一, 甲名?")
        desk.types("maybe", "yes")
        desk.hears("Bound: …1234 to 新一名")
        assert desk.owners() == {"1234": "新一"}
        desk.holds(CARD)
        desk.hears("已登记 BOUND, 新一名 新一")
        desk.holds(OTHER)
        desk.hears("…5678")
        desk.types("名")
        listed = desk.hears("2. ")
        desk.types("nobody at all")
        desk.hears("Nobody")
        desk.types("xin")
        desk.hears("1. 新一名")
        desk.types("99", "2")
        desk.hears("Bind …5678 to")
        desk.types("no")
        desk.hears("Left as it was")
        assert desk.owners() == {"1234": "新一"}
        assert "名" in listed
        desk.types("dance")
        desk.hears("'dance' is none of")
        desk.types("quit")
        desk.thread.join(5)
        assert not desk.thread.is_alive()
    assert CARD not in caplog.text


def test_the_past_taps_of_a_card_count_once_it_is_bound(desk: Desk) -> None:
    with desk.site.engine.begin() as conn:
        card = desk.site.world(conn).card(None, CARD)
    for at in (-20, -5, 3):
        desk.site.tap(None, minutes(at), card)
    with desk.at_work():
        desk.holds(CARD)
        desk.hears("its taps since 2026-04-24 10:46 will count")
        desk.types("新一", "yes")
        desk.hears("Bound")
    with reads(desk.site.engine) as conn:
        a = s.attendances.c
        found = conn.execute(
            select(a.verdict).where(a.member_id == desk.site.ids["新一"])
        ).scalar_one()
    assert found == "PRESENT"


@pytest.mark.parametrize(
    ("word", "left"), [("keep", "ACTIVE"), ("replace", "ACTIVE"), ("lost", "LOST")]
)
def test_who_has_a_card_already_is_asked_what_becomes_of_it(
    desk: Desk, word: str, left: str
) -> None:
    with desk.at_work():
        desk.holds(CARD)
        desk.hears("Whose is")
        desk.types("王")
        desk.hears("王名 王, 甲名 has a card already")
        desk.types("what", word, "yes")
        desk.hears("Bound")
        held = desk.site.client(token="甲").get(f"/api/v1/members/{public_id('王')}/cards").json()
        new, old = held["items"]
        assert new["numbers_last"] == ["1234"]
        assert old["status"] == left
        assert (old["valid_to"] is None) == (word == "keep")
        desk.types("undo")
        desk.hears("Undone: …1234 to 王名")
        assert desk.owners() == {}
        held = desk.site.client(token="甲").get(f"/api/v1/members/{public_id('王')}/cards").json()
        assert [(each["status"], each["valid_to"]) for each in held["items"]] == [("ACTIVE", None)]
        desk.types("undo")
        desk.hears("Nothing was bound in this session")


def test_lost_and_replace_begin_with_the_member(desk: Desk) -> None:
    with desk.at_work():
        desk.types("lost", "新一")
        desk.hears("has no card in use")
        desk.types("replace", "王", "no")
        desk.hears("Hold the new card of 王名")
        desk.holds(CARD)
        desk.hears("Bind …1234 to 王名 王, 甲名 and end …")
        desk.types("y")
        desk.hears("Bound")
        desk.site.now_ms += 60_000
        desk.types("lost", "王", "yes")
        desk.hears("Lost: …1234 of 王名")
        assert desk.owners() == {}
        desk.holds(CARD)
        desk.hears("已挂失 LOST, 王名")


def test_a_card_from_elsewhere_names_nobody_and_is_not_taken(desk: Desk) -> None:
    with desk.site.engine.begin() as conn:
        desk.site.world(conn).card("钱", CARD)
    with desk.at_work():
        desk.holds(CARD)
        assert desk.hears("ELSEWHERE") == "Card …1234: 登记在其他组织 ELSEWHERE."
        desk.types("quit")
    assert not any("钱" in each for each in desk.said)


def test_what_happens_at_the_reader_is_said(desk: Desk) -> None:
    with desk.at_work():
        desk.holds(Unreadable.RANDOM_NUMBER)
        desk.hears("手机、手表不能代替党员卡")
        desk.steps.put(Unplug(READER, Down.UNPLUGGED))
        desk.hears("Reader 桌上 cannot be used: unplugged")
        desk.steps.put(Plug(READER))
        desk.hears("is ready")
        desk.holds(CARD)
        desk.hears("Whose is …1234")
        desk.holds(OTHER)
        desk.hears("that card was not taken")
        desk.types("新一", "yes")
        desk.hears("Bound: …1234")
    assert desk.owners() == {"1234": "新一"}


# --- a network that fails -------------------------------------------------------------------------


class Line:
    """Between station and hub: what is asked, and whether the answer comes through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before: set[str] = set()
        self.after: set[str] = set()
        self.nonsense: set[str] = set()
        real: Callable[..., dict[str, object]] = request.ask

        def ask(hub: Any, method: str, path: str, *rest: Any, **more: Any) -> dict[str, object]:
            word = path.rpartition("/")[2]
            if word in self.before:
                raise request.NotAskedError("the hub cannot be reached: no route")
            if word in self.nonsense:
                return {"items": 5}
            answer = real(hub, method, path, *rest, **more)
            if word in self.after:
                raise request.NoAnswerError("the hub did not answer as a hub does: reset")
            return answer

        monkeypatch.setattr(asking, "ask", ask)


def test_every_failure_is_said_and_nothing_is_half_bound(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(monkeypatch)
    with desk.at_work():
        line.before = {"readings"}
        desk.holds(CARD)
        desk.hears("no route", "Nothing was bound")
        line.before = {"members"}
        desk.holds(CARD)
        desk.hears("Whose is")
        desk.types("新一")
        desk.hears("Not done", "no route")
        line.before = {"bind"}
        desk.types("新一", "yes")
        desk.hears("Not bound", "no route")
        assert desk.owners() == {}
        line.before, line.after = set(), {"bind"}
        desk.types("")
        desk.hears("It may be bound or not")
        assert desk.owners() == {"1234": "新一"}, "that answer alone was lost"
        desk.types("")
        desk.hears("It may be bound or not")
        line.after = set()
        desk.types("")
        desk.hears("Bound: …1234")
        assert desk.owners() == {"1234": "新一"}
        line.after = {"undo"}
        desk.types("undo")
        desk.hears("It may be done or not")
        assert desk.owners() == {}
        line.after = set()
        desk.types("undo")
        desk.hears("Undone")


def test_an_answer_that_is_none_is_no_success(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(monkeypatch)
    with desk.at_work():
        for word, said in (("readings", "Nothing was bound"), ("members", "may be done or not")):
            line.nonsense = {word}
            desk.holds(CARD)
            if word == "members":
                desk.hears("Whose is")
                desk.types("新一")
            desk.hears("did not answer as a hub does", said)
        line.nonsense = {"bind"}
        desk.types("新一", "yes")
        desk.hears("did not answer as a hub does", "It may be bound or not")
        assert desk.owners() == {}
        line.nonsense = set()
        desk.types("")
        desk.hears("Bound")
    assert desk.owners() == {"1234": "新一"}


def test_what_was_left_unknown_is_seen_when_the_card_is_read_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(monkeypatch)
    with desk.at_work():
        line.after = {"bind"}
        desk.holds(CARD)
        desk.hears("Whose is")
        desk.types("新一", "yes")
        desk.hears("It may be bound or not")
        desk.types("skip")
        desk.hears("Left. Read the card again")
        desk.holds(CARD)
        desk.hears("BOUND, 新一名")


def test_a_card_that_the_hub_has_forgotten_is_to_be_read_again(desk: Desk) -> None:
    with desk.at_work():
        desk.holds(CARD)
        desk.hears("Whose is")
        desk.site.now_ms += 11 * 60_000
        desk.types("新一", "yes")
        desk.hears("Not bound", "forgotten this card")


def test_a_hub_that_is_none_or_says_no_is_told(desk: Desk) -> None:
    desk.token_file.write_text("shk_" + 43 * "A", "utf-8")
    with desk.at_work():
        desk.holds(CARD)
        desk.hears("refused (401)")
    with desk.at_work(url="http://127.0.0.1:9"):
        desk.holds(CARD)
        desk.hears("cannot be reached")
    with pytest.raises(IssueError, match="is not the address of a hub"), desk.at_work(url="x"):
        pass


# --- a list ---------------------------------------------------------------------------------------


def csv(desk: Desk, text: str | bytes) -> Path:
    path = desk.folder / "名单.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def progress(path: Path) -> dict[str, Any]:
    return dict(json.loads((path.parent / (path.name + ".progress.json")).read_bytes()))


def test_a_list_goes_on_where_it_stopped(desk: Desk) -> None:
    path = csv(desk, "编号,姓名\n新一,x\n\n新二,y\n新三,z\n")
    with desk.at_work(list_file=path):
        desk.hears("0/3 done. Next: 新一名")
        desk.holds(CARD)
        desk.hears("1/3 done. Next: 新二名")
        desk.types("skip")
        desk.hears("1/3 done. Next: 新三名")
        desk.types("quit")
        desk.hears("1/3 done. The same command goes on with the other 2")
    held = (path.parent / (path.name + ".progress.json")).stat()
    assert held.st_mode & 0o777 == 0o600
    assert CARD[:-4] not in json.dumps(progress(path))
    with desk.at_work(list_file=path):
        desk.hears("1/3 done. Next: 新二名")
        desk.holds(CARD)
        desk.hears("BOUND, 新一名", "not taken")
        desk.hears("1/3 done. Next: 新二名")
        desk.holds(OTHER)
        desk.hears("2/3 done. Next: 新三名")
        desk.types("undo")
        desk.hears("Undone: …5678 of 新二")
        desk.hears("1/3 done. Next: 新二名")
        desk.types("undo")
        desk.hears("Undone: …1234 of 新一")
        desk.hears("0/3 done. Next: 新一名")
        desk.types("undo")
        desk.hears("Nothing of this list is done yet")
        assert desk.owners() == {}
        for number, card in enumerate((OTHER, THIRD, CARD)):
            desk.hears(f"{number}/3 done. Next")
            desk.holds(card)
            desk.hears("Bound")
        desk.hears("3/3 done: all of the list")
        desk.thread.join(5)
    assert desk.owners() == {"5678": "新一", "9ABC": "新二", "1234": "新三"}


def test_a_card_that_was_bound_before_the_progress_was_kept_counts(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = csv(desk, "新一\n新二\n")

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(IssueError, match="what was bound is"), desk.at_work(list_file=path):
            desk.hears("0/2 done")
            desk.holds(CARD)
            desk.hears("Bound")
            desk.thread.join(5)
    with desk.at_work(list_file=path):
        desk.hears("0/2 done")
        desk.holds(CARD)
        desk.hears("…1234 is the card of 新一名", "already: done")
        desk.hears("1/2 done")
        desk.types("undo")
        desk.hears("was bound before: it stays so")
        desk.hears("0/2 done")
    assert desk.owners() == {"1234": "新一"}


def test_a_card_held_there_too_early_is_not_the_next_ones(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = desk.folder / "list.csv"
    path.write_text("新一\n新二\n", "utf-8")
    reads, asked, answers = Client.read, threading.Event(), threading.Event()

    def slow(client: Client, card: Credential) -> Reading:
        asked.set()
        assert answers.wait(10)
        return reads(client, card)

    monkeypatch.setattr(Client, "read", slow)
    with desk.at_work(list_file=path):
        desk.hears("0/2 done", "新一")
        desk.holds(CARD)
        assert asked.wait(10)
        desk.holds(OTHER)  # nothing happens, so another card is tried for the same person
        answers.set()
        desk.hears("that card was not taken")
        desk.hears("1/2 done", "新二")
        desk.holds(THIRD)
        desk.hears("2/2 done")
    assert desk.owners() == {CARD[-4:]: "新一", THIRD[-4:]: "新二"}


def test_a_failure_in_a_list_leaves_the_member_waiting(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = csv(desk, "新一\n")
    line = Line(monkeypatch)
    with desk.at_work(list_file=path):
        desk.hears("0/1 done")
        for word in ("readings", "cards"):
            line.before = {word}
            desk.holds(CARD)
            desk.hears("no route")
            desk.hears("0/1 done. Next: 新一名")
        line.before, line.after = set(), {"bind"}
        desk.holds(CARD)
        desk.hears("It may be bound or not")
        desk.types("skip")
        desk.hears("0/1 done. Next: 新一名")
        line.after = set()
        desk.holds(CARD)
        desk.hears("already: done")
        desk.hears("1/1 done")
        desk.thread.join(5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no member"),
        ("编号\n", "names no member"),
        ("新一\n新一\n新二\n新二\n", "line 2: 新一 stands in line 1 already; line 4"),
        ("新一\n谁\n钱\n", "knows no 谁 .*; the hub knows no 钱"),
        (b"\xff\xfe\xff", "neither in UTF-8 nor in GB 18030"),
        ('"新一\n', "is no CSV"),
        ("x" * (1 << 20) + "\n", "is larger"),
        ("\n".join(str(each) for each in range(2001)), "more than 2000"),
    ],
)
def test_a_list_is_looked_through_before_it_begins(
    desk: Desk, text: str | bytes, words: str
) -> None:
    path = csv(desk, text)
    with pytest.raises(IssueError, match=words), desk.at_work(list_file=path):
        desk.thread.join(5)
    assert not any("is ready" in each for each in desk.said)
    assert [each.name for each in desk.folder.glob("*.json")] == []


def test_a_list_as_spreadsheets_write_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for raw in (
        "\ufeffcode;\r\nM1\r\nM2\r\n".encode(),
        "党员编号,名\r\nM1,王\r\nM2\r\n".encode("gbk"),
    ):
        path.write_bytes(raw.replace(b";", b","))
        assert read_list(path) == ["M1", "M2"]


def test_progress_of_another_hub_or_spoilt_is_not_gone_on_with(desk: Desk) -> None:
    path = csv(desk, "新一\n")
    kept = path.parent / (path.name + ".progress.json")
    for content, words in (
        ('{"hub": "https://hub.example", "done": []}', "is of https://hub.example"),
        ("{", "is no progress of a list"),
        ("[" * 10_000, "is no progress of a list"),
    ):
        kept.write_text(content, "utf-8")
        with pytest.raises(IssueError, match=words), desk.at_work(list_file=path):
            desk.thread.join(5)
        assert kept.read_text("utf-8") == content


# --- the page's reader ----------------------------------------------------------------------------


def test_a_station_only_tells_the_hub_what_it_reads(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(monkeypatch)
    stop = threading.Event()
    monkeypatch.setattr(module, "TICK_S", 0.05)
    alive = SimulatedReaders.alive
    monkeypatch.setattr(SimulatedReaders, "alive", lambda each: alive(each) and not stop.is_set())
    page = desk.site.signed_in("甲")
    with pytest.raises(IssueError, match="has ended"), desk.at_work(is_station=True):
        desk.hears("/cards/desk")
        desk.holds(CARD)
        desk.hears("…1234", "on the page")
        assert ">1234<" in page.get("/cards/desk").text
        line.before = {"readings"}
        desk.holds(OTHER)
        desk.hears("no route")
        line.before = set()
        desk.holds(OTHER)
        desk.hears("…5678")
        assert ">5678<" in page.get("/cards/desk").text
        desk.types("新一", "yes")
        stop.set()
        desk.thread.join(5)
    assert desk.owners() == {}


# --- the token ------------------------------------------------------------------------------------


def test_a_token_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("shk_" + "a" * 43, "utf-8")
    for mode in (0o644, 0o640, 0o602, 0o610):
        path.chmod(mode)
        with pytest.raises(IssueError, match=re.escape(f"chmod 600 {path}")):
            read_token(path)
    path.chmod(0o600)
    assert read_token(path) == "shk_" + "a" * 43
    for content in (b"", b"\n", b"a b", b"shk_\xff", b"x" * 300, b"two\nlines", b"short"):
        path.write_bytes(content)
        with pytest.raises(IssueError, match="holds no token") as error:
            read_token(path)
        assert content.decode("latin-1").strip() not in str(error.value) or not content.strip()
    with pytest.raises(IssueError, match="No such file"):
        read_token(tmp_path / "none")
    with pytest.raises(IssueError, match=r"directory|no file"):
        read_token(tmp_path)


def test_without_a_reader_in_the_configuration_it_says_so(desk: Desk) -> None:
    with pytest.raises(IssueError, match="names no reader"):
        issue(desk.folder, [], desk.url, desk.token_file, StringIO(), print)


def test_the_daemon_that_runs_here_and_a_line_that_is_read_are_told(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Runs:
        def __init__(self, _: Path) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(module, "ActLine", Runs)
    monkeypatch.setattr(request, "LOOPBACKS", frozenset())
    with desk.at_work():
        desk.hears("unencrypted")
        desk.hears("records as taps")


def test_a_token_of_another_branch_names_its_own_people(desk: Desk) -> None:
    with desk.site.engine.begin() as conn:
        token = new_token(conn, "乙台", "乙", LONG_AGO, role=Role.SECRETARY)
    desk.token_file.write_text(token, "utf-8")
    with desk.at_work():
        desk.holds(CARD)
        desk.hears("Whose is")
        desk.types("新一")
        desk.hears("Nobody in this token's sub-tree")
        desk.types("钱", "keep", "yes")
        desk.hears("Bound: …1234 to 钱名")
    assert desk.owners() == {"1234": "钱"}
