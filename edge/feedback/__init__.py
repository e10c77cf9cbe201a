"""What the door tells the person with the card, whatever device tells it.

An `Outcome` is what became of one card, and comes after the durable commit, never before. A
`Standing` is how the device is between cards. Light, symbol and wording belong to the outcome,
so that console, lamp, buzzer and screen say the same.

Green means recorded and recognised, and only that: without a roster the light is neutral and the
word is 已记录, never 签到成功.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final, Protocol


class Light(StrEnum):
    """What a lamp shows; the value is the colour's word."""

    GREEN = "绿"
    NEUTRAL = "白"
    AMBER = "黄"
    RED = "红"
    RED_BLINKING = "红闪"


class Outcome(Enum):
    """What became of a card: symbol, light, and the words on the screen."""

    RECOGNISED = ("✔", Light.GREEN, "签到成功")
    """Recorded, and the roster knows the card."""
    RECORDED = ("●", Light.NEUTRAL, "已记录")
    """Recorded; there is no roster to know it."""
    ALREADY = ("◎", Light.NEUTRAL, "已记录过，无需重复刷卡")
    """Recorded a moment ago. ALREADY_RECOGNISED is the wording where the roster knows the card."""
    UNKNOWN = ("▲", Light.AMBER, "已记录，待核对")
    """Recorded, but the roster does not know the card."""
    ACTED = ("■", Light.NEUTRAL, "操作已记录")
    """The card authorised an action, which is recorded; it is no check-in."""
    UNREADABLE = ("↻", Light.RED_BLINKING, "请再刷一次")
    """Nothing was recorded; another try may help."""
    FAILED = ("✘", Light.RED, "无法记录，请联系工作人员")
    """Nothing was recorded: the journal cannot. Or nobody knows, and the notice says so."""
    NOT_ENROLLED = ("✘", Light.RED, "设备未登记，无法记录，请联系工作人员")
    """Nothing was recorded: the device belongs to no hub yet."""

    def __init__(self, symbol: str, light: Light, wording: str) -> None:
        self.symbol = symbol
        self.light = light
        self.wording = wording

    @property
    def recorded(self) -> bool:
        """Whether the person's tap is durable."""
        return self.light in {Light.GREEN, Light.NEUTRAL, Light.AMBER}


ALREADY_RECOGNISED: Final = "您已签到，无需重复刷卡"
ALREADY_ACTED: Final = "操作已记录；如需签到，请稍后再刷"
"""The wording of ACTED for a card that authorised something a moment ago."""


class Standing(Enum):
    """How the device is between cards: symbol, light, and the words on the screen."""

    READY = ("▷", Light.NEUTRAL, "请刷党员卡")
    AWAITING = ("◇", Light.NEUTRAL, "请负责人刷卡确认，其他人请稍候")
    """Somebody asked for an action: the next card authorises it."""
    NO_READER = ("✘", Light.RED, "读卡器未连接，请联系工作人员")
    CANNOT_RECORD = ("✘", Light.RED, "无法记录，请联系工作人员")
    NOT_ENROLLED = ("✘", Light.RED, "设备未登记，无法记录，请联系工作人员")

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
