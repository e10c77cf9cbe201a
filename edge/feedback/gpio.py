"""Feedback by lamps and a buzzer on the pins of a Raspberry Pi (gpiozero, extra `edge-gpio`).

A newer outcome cuts an older one short, with a short dark between them. Between cards the red lamp
says whether the door can be used, and the others are dark. A buzzer plays the outcome's pitches
where the pin can (a passive buzzer); an active one has one pitch of its own and keeps the rhythm.

Where there are no pins, no library for them, or they cannot be had, `open_pins` says so once in the
log and gives nothing: the daemon goes on without.
"""

import importlib
import logging
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Protocol

import msgspec

from edge.feedback import Light, Notice, Outcome, Standing

_DARK_MS: Final = 60

_log = logging.getLogger(__name__)


Number = Annotated[int, msgspec.Meta(ge=0, le=27)]
"""A pin as Broadcom counts them: GPIO17 is 17, wherever on the board it is."""


class PinNumbers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which pin has what; None: there is none."""

    green: Number | None = None
    amber: Number | None = None
    red: Number | None = None
    white: Number | None = None
    """Recorded, and nobody knows the card; it may be left out, as each of them may."""
    buzzer: Number | None = None

    @property
    def used(self) -> tuple[int, ...]:
        """The numbers that are given."""
        return tuple(number for number in msgspec.structs.astuple(self) if number is not None)


class Switch(Protocol):
    """What gpiozero makes of a pin with a lamp."""

    def on(self) -> None: ...
    def off(self) -> None: ...
    def close(self) -> None: ...


class Buzzer(Protocol):
    """A pin with a buzzer."""

    def play(self, hz: int) -> None:
        """Sounds at this pitch; 0: is silent."""

    def close(self) -> None:
        """Gives the pin back."""


class Pins:
    """The output, over lamps and a buzzer that are there already."""

    def __init__(self, lamps: Mapping[Light, Switch], buzzer: Buzzer | None) -> None:
        self._lamps = lamps
        self._buzzer = buzzer
        self._changed = threading.Condition()
        self._outcome: Outcome | None = None
        self._standing: Standing | None = None
        self._stands = False
        self._closed = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="pins", daemon=True)
        self._thread.start()

    def show(self, notice: Notice) -> None:
        """Plays the outcome; returns at once."""
        with self._changed:
            self._outcome = notice.outcome
            self._changed.notify()

    def stand(self, standing: Standing, detail: str = "") -> None:  # noqa: ARG002
        """Red as long as the door cannot be used, dark otherwise; returns at once."""
        with self._changed:
            self._standing = standing
            self._stands = False
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread, puts everything out and gives the pins back."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(2)
        self._set(None, 0)
        for each in {id(each): each for each in (*self._lamps.values(), self._buzzer)}.values():
            if each is not None:
                each.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or self._outcome is not None or not self._stands
                )
                if self._closed:
                    return
                outcome, self._outcome = self._outcome, None
                standing, self._stands = self._standing, True
            try:
                if outcome is not None:
                    self._play(outcome)
                self._set(_between_cards(standing), 0)
            except Exception as error:  # noqa: BLE001 - a lamp is no reason to end
                if not self._failing:
                    _log.error("the lamps on the pins fail: %r", error)
                self._failing = True
            else:
                self._failing = False

    def _play(self, outcome: Outcome) -> None:
        self._set(None, 0)
        if self._newer(_DARK_MS):
            return
        for moment in outcome.moments:
            self._set(outcome.light if moment.lit else None, moment.hz)
            if self._newer(moment.ms):
                return

    def _newer(self, ms: int) -> bool:
        with self._changed:
            return self._changed.wait_for(
                lambda: self._closed or self._outcome is not None, ms / 1000
            )

    def _set(self, light: Light | None, hz: int) -> None:
        lamp = None if light is None else self._lamps.get(light)
        for each in self._lamps.values():
            if each is not lamp:
                each.off()
        if lamp is not None:
            lamp.on()
        if self._buzzer is not None:
            self._buzzer.play(hz)


def _between_cards(standing: Standing | None) -> Light | None:
    return Light.RED if standing is not None and standing.light is Light.RED else None


def open_pins(numbers: PinNumbers) -> Pins | None:
    """The output on these pins; None, and a line in the log, where they cannot be had."""
    try:
        with warnings.catch_warnings(action="ignore"):  # which ways to the pins were tried in vain
            return _open(importlib.import_module("gpiozero"), numbers)
    except ImportError as error:  # gpiozero.BadPinFactory is one
        _log.error(
            "no lamps on pins: this machine has no pins, or gpiozero or lgpio is not installed: %s",
            _one_line(error),
        )
    except Exception as error:  # noqa: BLE001 - of any of gpiozero's ways to the pins
        _log.error("no lamps on pins: they cannot be used: %s", _one_line(error))
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or repr(error)


def _open(gpiozero: Any, numbers: PinNumbers) -> Pins:
    opened: list[Callable[[], None]] = []

    def switch(number: int) -> Switch:
        found: Switch = gpiozero.DigitalOutputDevice(number)
        opened.append(found.close)
        return found

    try:
        lamps = {
            light: switch(number)
            for light, number in (
                (Light.GREEN, numbers.green),
                (Light.NEUTRAL, numbers.white),
                (Light.AMBER, numbers.amber),
                (Light.RED, numbers.red),
            )
            if number is not None
        }
        if Light.RED in lamps:
            lamps[Light.RED_BLINKING] = lamps[Light.RED]
        buzzer = None if numbers.buzzer is None else _buzzer(gpiozero, numbers.buzzer)
    except BaseException:
        for close in opened:
            close()
        raise
    return Pins(lamps, buzzer)


def _buzzer(gpiozero: Any, number: int) -> Buzzer:
    try:
        return _Pitched(gpiozero.PWMOutputDevice(number))
    except gpiozero.PinPWMUnsupported:
        return _OnePitch(gpiozero.DigitalOutputDevice(number))


class _Pitched:
    def __init__(self, device: Any) -> None:
        self._device = device

    def play(self, hz: int) -> None:
        if hz:
            self._device.frequency = hz
        self._device.value = 0.5 if hz else 0

    def close(self) -> None:
        self._device.close()


class _OnePitch:
    def __init__(self, device: Any) -> None:
        self._device = device

    def play(self, hz: int) -> None:
        if hz:
            self._device.on()
        else:
            self._device.off()

    def close(self) -> None:
        self._device.close()
