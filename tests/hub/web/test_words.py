"""Every Chinese text of the pages is given to `t` or `Words`, and has its English."""

import ast
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from string import Formatter

import pytest
from jinja2 import nodes

import hub
import hub.app
from hub.domain import completeness, terms
from hub.domain.terms import MeetingKind, Term
from hub.domain.words import Words
from hub.web.pages import _environment
from hub.web.words import ENGLISH, Language, day_words, short_day, speaking, t

ROOT = Path(hub.__file__).parent
CHINESE = re.compile(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")

IDEOGRAPHS = re.compile(r"[\u4e00-\u9fff]")

NOT_SAID_ON_PAGES = {
    "pinyin.py",
    "api/models.py",
    "app.py",
    "cli.py",
    "report.py",  # on the command line, beside the identifiers
    "store/migrations/versions/0001_first.py",
}
TEMPLATES = [name for name in _environment.list_templates() if name.endswith(".html")]
MODULES = [
    path
    for path in ROOT.rglob("*.py")
    if path.relative_to(ROOT).as_posix() not in NOT_SAID_ON_PAGES
    # What is wrong with a file is said in the language of its headings.
    and path.parent.name != "imports"
]


def places(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


def known(text: str) -> bool:
    return not CHINESE.search(text) or text in ENGLISH


def in_template(name: str) -> Iterator[str]:
    """What is wrong in a template."""
    loader = _environment.loader
    assert loader is not None
    tree = _environment.parse(loader.get_source(_environment, name)[0])
    said: set[nodes.Const] = set()
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name == "t":
            first, *_ = call.args
            for each in [first, *first.find_all(nodes.Const)]:
                if isinstance(each, nodes.Const):
                    said.add(each)
                    if not known(each.value):
                        yield f"{name}:{each.lineno}: no English for {each.value!r}"
                    given = {value.key for value in call.kwargs}
                    if call.dyn_kwargs is None and places(each.value) != given:
                        yield f"{name}:{each.lineno}: {each.value!r} is given {given}"
    for text in tree.find_all(nodes.TemplateData):
        # The name of a language is said in that language.
        plain = re.sub(r'lang="zh-CN">[^<]*<', "<", text.data)
        if CHINESE.search(plain):
            yield f"{name}:{text.lineno}: not given to t(): {plain.strip()!r}"
    for const in tree.find_all(nodes.Const):
        if isinstance(const.value, str) and CHINESE.search(const.value) and const not in said:
            yield f"{name}:{const.lineno}: not given to t(): {const.value!r}"


def in_module(path: Path) -> Iterator[str]:
    """What is wrong in a module: a Chinese text that no `t`, `Words`, `done` or Term says."""
    tree = ast.parse(path.read_text("utf-8"))
    fine: set[ast.AST] = set()
    for node in ast.walk(tree):
        # A string that stands alone documents something.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            fine.add(node.value)
        # Terms are asked for their words below.
        if isinstance(node, ast.ClassDef) and any(
            isinstance(base, ast.Name) and base.id == "Term" for base in node.bases
        ):
            fine.update(ast.walk(node))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            place = {"t": 0, "Words": 0, "done": 1}.get(node.func.id)
            if place is None or len(node.args) <= place:
                continue
            text = node.args[place]
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                fine.add(text)
                if not known(text.value):
                    yield f"{path.name}:{text.lineno}: no English for {text.value!r}"
                given = {each.arg for each in node.keywords} - {"kind"}
                if None not in given and places(text.value) != given:
                    yield f"{path.name}:{text.lineno}: {text.value!r} is given {given}"
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and IDEOGRAPHS.search(node.value)
            and node not in fine
        ):
            yield f"{path.name}:{node.lineno}: not given to t or Words: {node.value!r}"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_says_nothing_that_has_no_english(name: str) -> None:
    assert list(in_template(name)) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_says_nothing_that_has_no_english(path: Path) -> None:
    assert list(in_module(path)) == []


def test_what_is_excepted_is_there() -> None:
    for name in NOT_SAID_ON_PAGES:
        assert list(in_module(ROOT / name)), f"{name} needs no exception any more"


def all_terms(kind: type[Term] = Term) -> Iterator[Term]:
    """Of all that the application has imported."""
    yield from kind
    for below in kind.__subclasses__():
        yield from all_terms(below)


def test_every_term_has_its_english() -> None:
    found = set(all_terms())
    assert {MeetingKind.PARTY_LECTURE, completeness.Obstacle.SILENT} <= found
    assert sorted({each.zh for each in found if each.zh not in ENGLISH}) == []


@pytest.mark.parametrize("chinese", ENGLISH)
def test_an_english_text_has_the_same_places_and_no_chinese(chinese: str) -> None:
    english = ENGLISH[chinese]
    assert places(english) == places(chinese)
    # What a device says is quoted as it says it.
    assert not CHINESE.search(re.sub(r"“[^”]*”", "", english))
    assert english.strip()


def test_nothing_is_in_the_catalogue_that_nobody_says() -> None:
    sources = [*ROOT.rglob("*.py"), *ROOT.rglob("*.html"), *ROOT.rglob("*.js")]
    text = "\n".join(path.read_text("utf-8") for path in sources)
    assert [each for each in ENGLISH if each not in text] == []


def test_the_checks_find_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(
        '"""这是说明。"""\na = "没包"\nb = t("没有英文的")\nc = Words("共 {n} 条")\n'
        'd = t("保存")\ne = f"共{a}条"\nf = done("/", "保存", kind="warn")\n',
        "utf-8",
    )
    assert [each.split(":")[1] for each in in_module(path)] == ["3", "4", "2", "6", "6"]


def test_words_are_their_chinese_and_can_be_said_in_english() -> None:
    inner = Words("，最后联系{at}", at="10:00")
    words = Words(
        "设备“{name}”：记录是否完整尚不清楚{contact}{why}",
        name="{一}号",
        contact=inner,
        why=completeness.Obstacle.SILENT,
    )
    assert words == "设备“{一}号”：记录是否完整尚不清楚，最后联系10:00从未报告过记录情况"
    assert t(words) == words
    assert t(ValueError(words)) == words
    with speaking(Language.EN):
        assert t(words) == (
            "Device “{一}号”: not known whether its record is complete, last heard of at 10:00"
            "it has never reported on its record"
        )
        assert t(terms.Verdict.LATE) == "late"
        assert t(ValueError(words)) == t(words)
        assert t("李四{x}") == "李四{x}"
        assert t("共 {n} 条", n="{x}") == "Total: {x}"
        assert day_words(date(2026, 4, 24)) == "Friday 2026-04-24"
        assert short_day(date(2026, 4, 24)) == "Fri 04-24"
    assert t(terms.Verdict.LATE) == "迟到"
    assert day_words(date(2026, 4, 24)) == "2026年4月24日 星期五"
    assert short_day(date(2026, 4, 26)) == "4月26日 周日"
    with pytest.raises(KeyError):
        Words("共 {n} 条", m=3)
