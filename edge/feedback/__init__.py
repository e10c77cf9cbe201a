"""What the door tells the person with the card, whatever device tells it.

An `Outcome` is what became of one card, and comes after the durable commit, never before. A
`Standing` is how the device is between cards. Light, symbol, wording and rhythm belong to the
outcome, so that console, lamp, buzzer and screen say the same.

What a person must tell apart differs in more than one way: recorded and recognised, recorded but to
be checked, not readable, and cannot record differ in symbol, in colour, in pitch, and in how often
lamp and buzzer come on (once, twice, four times, three times), so that neither an eye for colours
nor an ear for pitch is needed. A neutral outcome is quiet: lower and shorter than those.

Green means recorded and recognised, and only that: without a roster the light is neutral and the
word is 已记录, never 签到成功.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum
from itertools import accumulate, pairwise
from typing import Final, Protocol, TypeVar


class Light(StrEnum):
    """What a lamp shows; the value is the colour's word."""

    GREEN = "绿"
    NEUTRAL = "白"
    AMBER = "黄"
    RED = "红"
    RED_BLINKING = "红闪"


@dataclass(frozen=True, slots=True)
class Tone:
    """A pitch, or silence (0 Hz), for so long."""

    hz: int
    ms: int


@dataclass(frozen=True, slots=True)
class Flash:
    """The lamp on, or off, for so long."""

    on: bool
    ms: int


_Part = TypeVar("_Part", Tone, Flash)

Pattern = tuple[Tone, ...]
"""What a buzzer plays. Tones last whole tenths of a second, as the buzzers of readers do."""

Blink = tuple[Flash, ...]
"""What the lamp of the outcome's colour does; afterwards it is off."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A part of an outcome in which neither lamp nor buzzer change.

    `tone_ms` is how long the tone lasts that begins here, also beyond this moment; 0 where none
    begins.
    """

    ms: int
    hz: int
    lit: bool
    tone_ms: int


def _tones(ms: int, gap_ms: int, *pitches: int) -> Pattern:
    played = [each for hz in pitches for each in (Tone(hz, ms), Tone(0, gap_ms))]
    return tuple(played[:-1])


def _flashes(times: int, on_ms: int, off_ms: int, last_ms: int | None = None) -> Blink:
    last = Flash(True, on_ms if last_ms is None else last_ms)
    return ((Flash(True, on_ms), Flash(False, off_ms)) * (times - 1)) + (last,)


def together(pattern: Pattern, blink: Blink) -> tuple[Moment, ...]:
    """A pattern and a blink that begin at once, cut wherever either changes."""
    ends = sorted(
        {*accumulate(tone.ms for tone in pattern), *accumulate(flash.ms for flash in blink)}
    )
    moments = []
    for begin, end in pairwise([0, *ends]):
        tone, begun = _current(pattern, begin)
        flash, _ = _current(blink, begin)
        hz = 0 if tone is None else tone.hz
        tone_ms = tone.ms if tone is not None and hz and begun == begin else 0
        moments.append(Moment(end - begin, hz, flash is not None and flash.on, tone_ms))
    return tuple(moments)


def _current(parts: tuple[_Part, ...], at: int) -> tuple[_Part | None, int]:
    """The part that plays `at` milliseconds from the start, and when it began."""
    begin = 0
    for part in parts:
        if begin <= at < begin + part.ms:
            return part, begin
        begin += part.ms
    return None, begin


_REFUSAL: Final = (_tones(400, 200, 659, 523, 392), _flashes(3, 400, 200, 1000))


class Outcome(Enum):
    """What became of a card: symbol, light, the words on the screen, sounds and flashes."""

    RECOGNISED = ("✔", Light.GREEN, "签到成功", _tones(200, 0, 2093), _flashes(1, 1000, 0))
    """Recorded, and the roster knows the card."""
    RECORDED = ("●", Light.NEUTRAL, "已记录", _tones(100, 0, 587), _flashes(1, 400, 0))
    """Recorded; there is no roster to know it."""
    ALREADY = (
        "◎",
        Light.NEUTRAL,
        "已记录过，无需重复刷卡",
        _tones(100, 0, 494),
        _flashes(1, 200, 0),
    )
    """Recorded a moment ago. ALREADY_RECOGNISED is the wording where the roster knows the card."""
    UNKNOWN = (
        "▲",
        Light.AMBER,
        "已记录，待核对",
        _tones(200, 200, 1319, 1319),
        _flashes(2, 300, 100, 600),
    )
    """Recorded, but the roster does not know the card."""
    ACTED = (
        "■",
        Light.NEUTRAL,
        "操作已记录",
        _tones(100, 100, 494, 587),
        _flashes(2, 100, 100, 400),
    )
    """The card authorised an action, which is recorded; it shows its holder as a tap does."""
    UNREADABLE = (
        "↻",
        Light.RED_BLINKING,
        "请再刷一次",
        _tones(100, 100, 988, 988, 988, 988),
        _flashes(4, 100, 100),
    )
    """Nothing was recorded; another try may help."""
    FAILED = ("✘", Light.RED, "无法记录，请联系工作人员", *_REFUSAL)
    """Nothing was recorded: the journal cannot. Or nobody knows, and the notice says so."""
    NOT_ENROLLED = ("✘", Light.RED, "设备未登记，无法记录，请联系工作人员", *_REFUSAL)
    """Nothing was recorded: the device belongs to no hub yet."""
    RETIRED = ("✘", Light.RED, "设备已退役，没有记录，请到其他设备刷卡", *_REFUSAL)
    """Nothing was recorded: the hub has told the device to retire."""

    def __init__(
        self, symbol: str, light: Light, wording: str, pattern: Pattern, blink: Blink
    ) -> None:
        self.symbol = symbol
        self.light = light
        self.wording = wording
        self.pattern = pattern
        self.blink = blink

    @property
    def moments(self) -> tuple[Moment, ...]:
        """Lamp and buzzer together, both from the start, until both are done."""
        return together(self.pattern, self.blink)

    @property
    def recorded(self) -> bool:
        """Whether the person's tap is durable."""
        return self.light in {Light.GREEN, Light.NEUTRAL, Light.AMBER}


ALREADY_RECOGNISED: Final = "您已签到，无需重复刷卡"
ALREADY_UNKNOWN: Final = "已记录过，待核对"
"""The wording of UNKNOWN for a card that was recorded as that a moment ago."""
ALREADY_ACTED: Final = "操作已记录，无需重复刷卡"
"""The wording of ACTED for a card that authorised something a moment ago."""
REHEARSING: Final = "演练中，刷卡不记录"
"""Beside all that is shown while virtual cards try the venue: no real card is read."""
OUT_OF_DATE: Final = "此卡不在有效期内，已记录，待核对"
"""The wording of UNKNOWN for a card that says itself that it is not valid now."""


class Standing(Enum):
    """How the device is between cards: symbol, light, and the words on the screen."""

    READY = ("▷", Light.NEUTRAL, "请刷党员卡")
    AWAITING = ("◇", Light.NEUTRAL, "请负责人刷卡确认，其他人请稍候")
    """Somebody asked for an action: the next card authorises it."""
    NO_READER = ("✘", Light.RED, "读卡器未连接，请联系工作人员")
    CANNOT_RECORD = ("✘", Light.RED, "无法记录，请联系工作人员")
    NOT_ENROLLED = ("✘", Light.RED, "设备未登记，无法记录，请联系工作人员")
    RETIRED = ("✘", Light.RED, "设备已退役，不再记录，请到其他设备刷卡")
    """The hub has told the device to retire; it only hands over what it holds."""
    STICK_WRITING = ("⇩", Light.AMBER, "正在写入U盘，请勿拔出")
    """To a stick that somebody plugged in; cards are read as ever."""
    STICK_WRITTEN = ("⏏", Light.NEUTRAL, "已写入，可以拔出U盘")
    STICK_FAILED = ("⚠", Light.AMBER, "U盘写入失败，刷卡不受影响")

    def __init__(self, symbol: str, light: Light, wording: str) -> None:
        self.symbol = symbol
        self.light = light
        self.wording = wording


@dataclass(frozen=True, slots=True)
class Notice:
    """One outcome to show. An empty `message` becomes the outcome's own wording; it holds no card
    number and no name.
    """

    outcome: Outcome
    reader: str
    message: str = ""

    def __post_init__(self) -> None:
        if not self.message:
            object.__setattr__(self, "message", self.outcome.wording)


class Feedback(Protocol):
    """A device that shows outcomes."""

    def show(self, notice: Notice) -> None:
        """Shows what became of a card."""

    def stand(self, standing: Standing, detail: str = "") -> None:
        """Shows how the device is, until the next call; `detail` is a second, smaller line."""
