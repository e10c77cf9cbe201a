"""How Chinese names are read, so that they are found by letters.

Promises: a surname is read as surnames are (单 Shàn, not Dān); where people who bear a name read it
in several ways (覃 Qín and Tán) every one of them finds it. Letters are lower case without tones,
and ü is `v`, as on a keyboard.

It knows no person: how somebody reads their own name, nobody but they can say.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

from pypinyin import Style, lazy_pinyin, pinyin

_SINGLE: Final = """
单:shan 仇:qiu 解:xie 区:ou 查:zha 曾:zeng 任:ren 尹:yin 朴:piao 缪:miao 翟:zhai,di 盖:ge,gai
乐:yue,le 员:yun 贠:yun 覃:qin,tan 华:hua 燕:yan 繁:po 种:chong 秘:bi,mi 冼:xian 洗:xian 逄:pang
晁:chao 郇:xun,huan 召:shao,zhao 黑:he,hei 牟:mou,mu 那:na 宁:ning 强:qiang 句:gou 勾:gou 折:she
过:guo 哈:ha 能:nai 费:fei,bi 祭:zhai 郗:xi,chi 佴:nai 阚:kan 葛:ge 纪:ji 车:che 都:du 谌:chen,shen
隗:wei,kui 尉:wei 撒:sa 眭:sui 六:lu 相:xiang 占:zhan 曲:qu 冯:feng 应:ying 乜:nie 褚:chu
莘:shen,xin 訾:zi 卜:bu 柏:bai,bo 藏:zang 角:jue 宓:mi,fu 薄:bo 谷:gu 沈:shen 石:shi 会:gui 炅:gui
俞:yu 叶:ye 降:jiang 呙:guo 妫:gui 郄:qie,xi 瞿:qu 仉:zhang 亓:qi 啜:chuai 逯:lu 阙:que 粘:nian
宿:su 荥:xing 钭:tou 万:wan 教:jiao 惠:hui 幺:yao 行:xing 南:nan 吕:lv 卡:ka 合:he 於:yu 洪:hong
参:shen 長:zhang 重:chong 令:ling 卒:zu 柴:chai 奇:qi 贾:jia
将:jiang 调:tiao 适:kuo 校:jiao 舍:she 洛:luo 溥:pu 濮:pu 邢:xing 甯:ning 嵇:ji 敖:ao 庞:pang 麴:qu
"""
"""Surnames whose character has other readings too, or ones that are easily taken for another."""

_DOUBLE: Final = """
欧阳:ou-yang 尉迟:yu-chi 万俟:mo-qi 长孙:zhang-sun 单于:chan-yu 澹台:tan-tai 濮阳:pu-yang
令狐:ling-hu 鲜于:xian-yu 司马:si-ma 上官:shang-guan 诸葛:zhu-ge 夏侯:xia-hou 皇甫:huang-fu
慕容:mu-rong 宇文:yu-wen 公孙:gong-sun 轩辕:xuan-yuan 独孤:du-gu 南宫:nan-gong 拓跋:tuo-ba
东方:dong-fang 西门:xi-men 呼延:hu-yan 百里:bai-li 端木:duan-mu 钟离:zhong-li 闻人:wen-ren
第五:di-wu 赫连:he-lian 淳于:chun-yu 太叔:tai-shu 申屠:shen-tu 仲孙:zhong-sun 闾丘:lv-qiu
司徒:si-tu 司空:si-kong 亓官:qi-guan 司寇:si-kou 子车:zi-ju 颛孙:zhuan-sun 巫马:wu-ma
公西:gong-xi 漆雕:qi-diao 乐正:yue-zheng 壤驷:rang-si 公良:gong-liang 夹谷:jia-gu 宰父:zai-fu
谷梁:gu-liang 段干:duan-gan 梁丘:liang-qiu 左丘:zuo-qiu 东郭:dong-guo 公冶:gong-ye 宗政:zong-zheng
纳兰:na-lan 叱干:chi-gan 贺兰:he-lan 完颜:wan-yan 耶律:ye-lv 费莫:fei-mo 叶赫:ye-he 羊舌:yang-she
"""

SURNAMES: Final[dict[str, tuple[str, ...]]] = {
    character: tuple(readings.split(","))
    for character, _, readings in (each.partition(":") for each in _SINGLE.split())
}
DOUBLE_SURNAMES: Final[dict[str, tuple[str, ...]]] = {
    characters: tuple(readings.split("-"))
    for characters, _, readings in (each.partition(":") for each in _DOUBLE.split())
}


def spelling(name: str) -> str:
    """A name's likeliest reading, a syllable a character: `shan xiao ming`; sorts as people do."""
    surname = _surname(name)
    if surname is None:
        return " ".join(_plain(each) for each in lazy_pinyin(name))
    length, readings = surname
    given = (_plain(each) for each in lazy_pinyin(name[length:]))
    return " ".join([*(each[0] for each in readings), *given])


def initials(name: str) -> str:
    """The first letters of `spelling`: `sxm`."""
    return "".join(each[0] for each in spelling(name).split())


def matches(query: str, name: str, code: str = "") -> bool:
    """Whether a person who types `query` means this one.

    By part of the name, by the beginning of the code, or by letters: of each character from
    some one on its reading, the beginning of that, or itself (`sxm`, `shanxiaom`, `单xm`, `xm`).
    Blanks and case don't matter; an empty query means everybody.
    """
    asked = _plain("".join(query.split()))
    if not asked:
        return True
    if code.casefold().startswith(asked) or asked in name.casefold():
        return True
    if not any("a" <= letter <= "z" for letter in asked):
        return False
    known = readings(name)
    return any(_reads(asked, known[start:]) for start in range(len(known)))


@lru_cache(maxsize=1 << 16)
def readings(name: str) -> tuple[tuple[str, ...], ...]:
    """For each character all that it may be typed as: its readings, and itself."""
    compact = "".join(name.split())
    found = [(*_typed(_of(character)), character.casefold()) for character in compact]
    surname = _surname(compact)
    if surname is None:
        return tuple(found)
    length, known = surname
    for at in range(length):
        # Where two characters may be one surname or a surname and a given name, both are found.
        others = () if length == 1 or at else SURNAMES.get(compact[0], ())
        others = (*others, *(_of(compact[at]) if length > 1 and at else ()))
        found[at] = (*dict.fromkeys(_typed((*known[at], *others))), compact[at])
    return tuple(found)


def _surname(name: str) -> tuple[int, list[tuple[str, ...]]] | None:
    """How many characters of it are a surname of the tables, and the readings of each."""
    double = DOUBLE_SURNAMES.get(name[:2])
    if double is not None and len(name) > 2:
        return 2, [(each,) for each in double]
    single = SURNAMES.get(name[:1])
    return None if single is None else (1, [single])


@lru_cache(maxsize=1 << 13)
def _of(character: str) -> tuple[str, ...]:
    if character.isascii():
        return (character.casefold(),)
    [several] = pinyin(character, style=Style.NORMAL, heteronym=True)
    return tuple(dict.fromkeys(_plain(each) for each in several))


def _plain(text: str) -> str:
    return text.casefold().replace("ü", "v")


def _typed(several: Iterable[str]) -> Iterator[str]:
    """Each reading, and ü as passports write it: `lv` and `lyu`."""
    for each in several:
        yield each
        if "v" in each:
            yield each.replace("v", "yu")


def _reads(asked: str, known: tuple[tuple[str, ...], ...]) -> bool:
    """Whether `asked` is made of a beginning of each character, one after another."""
    reached = {0}
    for options in known:
        reached = {
            at + length
            for at in reached
            for each in options
            for length in range(1, min(len(each), len(asked) - at) + 1)
            if asked.startswith(each[:length], at)
        }
        if len(asked) in reached:
            return True
        if not reached:
            return False
    return False
