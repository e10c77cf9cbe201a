"""What somebody does at a reader with a card that authorises it: what is asked, what became of it.

The command line asks the recorder so; a screen or a keypad would ask the same. Nothing is judged
here: who is a member, and whether that card may speak for anybody, only the hub knows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, assert_never

import msgspec

from protocol.credential import MEMBER_SCHEME, Credential
from protocol.journal import MAX_HEAD_COUNT, Act

WAIT_MS: Final = 30_000
"""How long the recorder waits for the card."""

ZH: Final = {
    Act.OPENED: "会议开始",
    Act.CLOSED: "会议结束",
    Act.HEAD_COUNT: "清点人数",
    Act.WITNESSED: "现场证明",
}


class InvalidWishError(ValueError):
    """What cannot be asked for; the message says why."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be recorded once a card authorises it."""

    what: Act
    number: int | None = None
    """The head-count, for that alone."""
    about: Credential | None = None
    """The member witnessed, for that alone."""

    def __post_init__(self) -> None:
        if (self.number is not None) != (self.what is Act.HEAD_COUNT):
            raise InvalidWishError("a head-count, and nothing else, needs a number")
        if (self.about is not None) != (self.what is Act.WITNESSED):
            raise InvalidWishError("a witnessed presence, and nothing else, needs a member's code")
        if self.number is not None and not 0 <= self.number <= MAX_HEAD_COUNT:
            raise InvalidWishError(f"a head-count is 0 to {MAX_HEAD_COUNT}, not {self.number}")
        if self.about is not None and self.about.scheme != MEMBER_SCHEME:
            raise InvalidWishError("a witnessed presence names a member by code")

    @property
    def words(self) -> str:
        """For the door: what it is, and nobody's name or code."""
        return ZH[self.what] + ("" if self.number is None else f" {self.number}")


class _Answer(msgspec.Struct, frozen=True, tag_field="state"):
    """One line, to whoever asked."""


class Waiting(_Answer, frozen=True, tag="waiting"):
    """From now on a card authorises it."""

    seconds: int


class Again(_Answer, frozen=True, tag="again"):
    """A card was held there, and could not be read; it may be held once more."""

    words: str


class Done(_Answer, frozen=True, tag="recorded"):
    """It is durable, as entry `seq` of `epoch` (hex)."""

    epoch: str
    seq: int


class Why(StrEnum):
    """Why nothing was recorded."""

    INVALID = "invalid"
    BUSY = "busy"
    NO_READER = "no_reader"
    CANNOT_RECORD = "cannot_record"
    RETIRED = "retired"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    STOPPING = "stopping"


class Refused(_Answer, frozen=True, tag="refused"):
    """It was not recorded and will not be."""

    why: Why
    detail: str = ""

    @property
    def words(self) -> str:
        """What to tell whoever asked, in plain English."""
        match self.why:
            case Why.INVALID:
                return self.detail
            case Why.BUSY:
                return "another command waits for a card: try again when it is done"
            case Why.NO_READER:
                return "no reader works here: see `shuaka-edge doctor`; nothing was recorded"
            case Why.CANNOT_RECORD:
                why = f" ({self.detail})" if self.detail else ""
                return f"the journal cannot record{why}: see `shuaka-edge doctor`, then try again"
            case Why.RETIRED:
                return "this device is retired and records nothing any more: use another one"
            case Why.TIMED_OUT:
                return f"no card was read within {WAIT_MS // 1000} seconds: nothing was recorded"
            case Why.CANCELLED:
                return "cancelled: nothing was recorded"
            case Why.STOPPING:
                return "shuaka-edge is being stopped: nothing was recorded"
            case _:
                assert_never(self.why)


class Unknown(_Answer, frozen=True, tag="unknown"):
    """The journal failed while it was recorded: it may be durable, or not."""

    detail: str = ""

    @property
    def words(self) -> str:
        """What to tell whoever asked, in plain English."""
        why = f" ({self.detail})" if self.detail else ""
        return (
            f"it is not known whether it was recorded: the journal failed just then{why}; see"
            " `shuaka-edge doctor`, and then whether `shuaka-edge journal list --last 5` shows it"
        )


Last = Done | Refused | Unknown
Answer = Waiting | Again | Last
"""Any number of the first two, then one of the last three."""

Tell = Callable[[Answer], None]
"""Takes an answer and returns at once: whoever tells has cards to record."""


def named(what: int) -> str:
    """An act as a list shows it."""
    if what not in set(Act):
        return f"act {what} of a later version"
    act = Act(what)
    return f"{ZH[act]} {act.name}"
