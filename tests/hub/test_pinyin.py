"""A name is found by whatever its bearer may be called, and by nothing else."""

import time

import pytest

from hub import pinyin
from hub.pinyin import DOUBLE_SURNAMES, SURNAMES, initials, matches, readings, spelling

SURNAMED = [
    ("单晓明", "shan xiao ming"),
    ("仇建国", "qiu jian guo"),
    ("解放", "xie fang"),
    ("区志强", "ou zhi qiang"),
    ("查良镛", "zha liang yong"),
    ("曾国藩", "zeng guo fan"),
    ("任志强", "ren zhi qiang"),
    ("尹力", "yin li"),
    ("朴正洙", "piao zheng zhu"),
    ("缪建民", "miao jian min"),
    ("翟志刚", "zhai zhi gang"),
    ("盖叫天", "ge jiao tian"),
    ("乐嘉", "yue jia"),
    ("员外", "yun wai"),
    ("覃辉", "qin hui"),
    ("华罗庚", "hua luo geng"),
    ("种师道", "chong shi dao"),
    ("逄先知", "pang xian zhi"),
    ("吕布", "lv bu"),
    ("欧阳修", "ou yang xiu"),
    ("尉迟恭", "yu chi gong"),
    ("尉健行", "wei jian xing"),
    ("万俟卨", "mo qi xie"),
    ("万里", "wan li"),
    ("长孙无忌", "zhang sun wu ji"),
    ("单于", "shan yu"),
    ("单于明", "chan yu ming"),
    ("澹台灭明", "tan tai mie ming"),
    ("乐正克", "yue zheng ke"),
    ("王重阳", "wang chong yang"),
    ("张三", "zhang san"),
]


@pytest.mark.parametrize(("name", "read"), SURNAMED)
def test_a_surname_is_read_as_one(name: str, read: str) -> None:
    assert spelling(name) == read
    assert initials(name) == "".join(each[0] for each in read.split())
    assert matches(read.replace(" ", ""), name)
    assert matches(initials(name).upper(), name)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("qinhui", "覃辉"),
        ("tanhui", "覃辉"),
        ("th", "覃辉"),
        ("qh", "覃辉"),
        ("yuejia", "乐嘉"),
        ("lejia", "乐嘉"),
        ("dizhigang", "翟志刚"),
        ("gaijiaotian", "盖叫天"),
        ("shenlan", "谌兰"),
        ("chenlan", "谌兰"),
        ("muping", "牟平"),
        ("mouping", "牟平"),
        # As a surname of two characters, or of one and a given name.
        ("moqi", "万俟卨"),
        ("wanlixie", "万里斜"),
        ("chanyuming", "单于明"),
        ("shanyuming", "单于明"),
        # In a given name every reading counts.
        ("zhangle", "张乐"),
        ("zhangyue", "张乐"),
        ("wangxing", "王行"),
        ("wanghang", "王行"),
        # As it is typed, letter by letter.
        *(("shanxiaoming"[:length], "单晓明") for length in range(1, 13)),
        ("sxiaom", "单晓明"),
        ("shxm", "单晓明"),
        ("xm", "单晓明"),
        ("单xm", "单晓明"),
        ("s x m", "单晓明"),
        ("晓明", "单晓明"),
        ("lvbu", "吕布"),
        ("lübu", "吕布"),
        ("lyubu", "吕布"),
        ("zhangs", "张 三"),
        ("", "张三"),
        ("  ", "张三"),
        ("a", "阿依古丽·买买提"),
        ("aygl", "阿依古丽·买买提"),
        ("smith", "Smith"),
    ],
)
def test_who_is_meant_is_found(query: str, name: str) -> None:
    assert matches(query, name)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("dan", "单晓明"),
        ("dxm", "单晓明"),
        ("chou", "仇建国"),
        ("jiefang", "解放"),
        ("quzhiqiang", "区志强"),
        ("chaliangyong", "查良镛"),
        ("cengguofan", "曾国藩"),
        ("gxy", "单晓明"),
        ("sm", "单晓明"),
        ("shanxiaominga", "单晓明"),
        ("明晓", "单晓明"),
        ("李", "单晓明"),
        ("001", "单晓明"),
        ("chang", "长孙无忌"),
    ],
)
def test_who_is_not_meant_is_not(query: str, name: str) -> None:
    assert not matches(query, name, "M001")


def test_a_code_is_found_from_its_beginning() -> None:
    assert matches("m00", "张三", "M001")
    assert not matches("001", "张三", "M001")
    assert matches("330102", "张三", "330102199001011234")


def test_the_tables_name_each_surname_once_and_a_syllable_for_each_character() -> None:
    assert len(pinyin._SINGLE.split()) == len(SURNAMES)
    assert len(pinyin._DOUBLE.split()) == len(DOUBLE_SURNAMES)
    for characters, several in [*SURNAMES.items(), *DOUBLE_SURNAMES.items()]:
        assert all(each.isascii() and each.isalpha() and each.islower() for each in several)
        assert len(characters) == (1 if characters in SURNAMES else len(several) == 2 and 2)


def test_a_long_name_of_many_readings_is_answered_at_once() -> None:
    began = time.monotonic()
    assert not matches("a" * 200, "阿" * 199)
    assert not matches("ni" * 100 + "x", "呢" * 200)
    assert time.monotonic() - began < 5


def test_readings_name_every_character() -> None:
    assert [each[-1] for each in readings("单 晓明")] == ["单", "晓", "明"]
