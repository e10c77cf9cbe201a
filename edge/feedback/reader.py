"""Feedback by the lamp and buzzer that the reader itself has, and the commands of the known kinds.

A notice is shown by the reader at which the card was, and by no other. This module calls no reader:
`ReaderLamps` hands the outcome on to whoever serves the reader (PC/SC: edge.readers.pcsc_lamp), and
`lamp_of` says which commands make up an outcome. A reader of a kind that is not known here is left
alone.

Neither kind has white: a neutral outcome is the buzzer alone. Red and green at once is amber. The
times between commands are kept by the caller, since a reader that blinks by itself does nothing
else meanwhile.

Sources: ACS, "ACR122U Application Programming Interface" 2.04 (bi-colour LED and buzzer control;
buzzer output for card detection); ACS, "ACR1252U Reference Manual" (LED control, buzzer control).
Tried on no real reader.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from edge.feedback import Light, Moment, Notice, Outcome, Standing

SignalReader = Callable[[str, Outcome], None]
"""Has the reader of that name show an outcome; returns at once, also where there is none."""


class ReaderLamps:
    """The output: to each reader its own."""

    def __init__(self, signal: SignalReader) -> None:
        self._signal = signal

    def show(self, notice: Notice) -> None:
        """Has the notice's reader show it; returns at once."""
        self._signal(notice.reader, notice.outcome)

    def stand(self, standing: Standing, detail: str = "") -> None:
        """Nothing: between cards the reader's lamp is its own."""


@dataclass(frozen=True, slots=True)
class Step:
    """A command to the reader (None: nothing changes), whether a lamp is on after it, and how long
    until the next step.
    """

    command: bytes | None
    lit: bool
    ms: int


class Lamp(Protocol):
    """A kind of reader, as its commands."""

    @property
    def by_card(self) -> bool:
        """Whether the commands may also go where commands to a card go."""

    @property
    def hush(self) -> bytes | None:
        """So that the reader does not beep of itself when a card comes: that would be taken for
        recorded. The reader forgets it when it is unplugged.
        """

    @property
    def dark(self) -> bytes:
        """Lamp off."""

    def steps(self, outcome: Outcome) -> tuple[Step, ...]:
        """The outcome, from a lamp that is off to a lamp that is off."""


_RED: Final = 0b01
_GREEN: Final = 0b10
_COLOURS: Final = {
    Light.GREEN: _GREEN,
    Light.NEUTRAL: 0,
    Light.AMBER: _RED | _GREEN,
    Light.RED: _RED,
    Light.RED_BLINKING: _RED,
}


class Acr122u:
    """`FF 00 40 <P2> 04 <T1> <T2> <N> <buzzer>`.

    P2, from bit 0: red and green at the end; whether each is set; red and green while it blinks;
    whether each blinks. T1 in tenths of a second. A buzzer that sounds keeps the reader busy.
    """

    by_card = True
    hush: bytes | None = bytes.fromhex("FF00520000")
    dark = bytes.fromhex("FF00400C0400000000")

    _LONGEST_BEEP_MS = 200

    def steps(self, outcome: Outcome) -> tuple[Step, ...]:
        """One command wherever lamp or buzzer change; a tone of 200 ms at most."""
        colour = _COLOURS[outcome.light]
        lit = False
        steps = []
        for moment in (*outcome.moments, _END):
            command = None
            tone_ms = min(moment.tone_ms, self._LONGEST_BEEP_MS)
            shown = colour if moment.lit else 0
            if tone_ms:
                # Where a lamp is to be on it blinks once, on for the whole tone, and stays on.
                blinking = shown << 4 | shown << 6
                masked = 0b1100 if colour else 0
                command = bytes(
                    [0xFF, 0, 0x40, shown | masked | blinking, 4, tone_ms // 100, 0, 1, 1]
                )
            elif moment.lit != lit and colour:
                command = bytes([0xFF, 0, 0x40, shown | 0b1100, 4, 0, 0, 0, 0])
            lit = moment.lit
            steps.append(Step(command, lit and bool(colour), moment.ms))
        return tuple(steps)


class Acr1252:
    """`E0 00 00 29 01 <lamps>` and `E0 00 00 28 01 <hundredths of a second>`: ACR1252, ACR1552."""

    by_card = False
    hush: bytes | None = None  # theirs would be kept for good, also for whoever uses it next
    dark = bytes.fromhex("E00000290100")

    def steps(self, outcome: Outcome) -> tuple[Step, ...]:
        """Lamp and buzzer have a command each."""
        colour = _COLOURS[outcome.light]
        lit = False
        steps = []
        for moment in (*outcome.moments, _END):
            commands = []
            if moment.lit != lit and colour:
                shown = colour if moment.lit else 0
                commands.append(bytes([0xE0, 0, 0, 0x29, 1, shown]))
            if moment.tone_ms:
                commands.append(bytes([0xE0, 0, 0, 0x28, 1, min(0xFE, moment.tone_ms // 10)]))
            lit = moment.lit
            on = lit and bool(colour)
            steps += [Step(command, on, 0) for command in commands[:-1]]
            steps.append(Step(commands[-1] if commands else None, on, moment.ms))
        return tuple(steps)


_END: Final = Moment(0, 0, lit=False, tone_ms=0)

_KINDS: Final[tuple[tuple[str, Lamp], ...]] = (
    ("ACR122U", Acr122u()),
    ("ACR1252", Acr1252()),
    ("ACR1552", Acr1252()),
)


def lamp_of(reader: str) -> Lamp | None:
    """The lamp of the PC/SC reader of this name (the driver's list has the models' names)."""
    name = reader.upper()
    return next((lamp for model, lamp in _KINDS if model in name), None)
