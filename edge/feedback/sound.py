"""Feedback by a loudspeaker: each outcome's tones, played by ALSA's `aplay`.

A newer outcome cuts an older one short. Where `aplay` or a sound card is missing, or it does not
end, that is logged once and tried again with the next card. Nothing waits for a sound.
"""

import functools
import io
import logging
import math
import os
import subprocess
import threading
import time
import wave
from array import array
from collections.abc import Sequence
from typing import IO, Final

from edge.feedback import Notice, Outcome, Pattern, Standing
from edge.feedback.latest import Latest

_RATE: Final = 22_050
_LOUDNESS: Final = 0.5
_EDGE_S: Final = 0.005
"""A tone that begins or ends at once clicks."""
_PATIENCE_S: Final = 3.0
"""What `aplay` may take beyond the sound itself."""
_LOOK_S: Final = 0.02

_log = logging.getLogger(__name__)


class Sound:
    """The output. `program` is a command that plays the WAV file on its standard input."""

    def __init__(self, program: Sequence[str] = ("aplay", "-q", "-")) -> None:
        self._program = tuple(program)
        self._latest: Latest[Outcome] = Latest()
        self._trouble = ""  # of the thread alone
        self._thread = threading.Thread(target=self._run, name="sound", daemon=True)
        self._thread.start()

    def show(self, notice: Notice) -> None:
        """Plays the outcome's tones; returns at once."""
        self._latest.put(notice.outcome)

    def stand(self, standing: Standing, detail: str = "") -> None:
        """Nothing: a sound is for one person at one moment."""

    def close(self) -> None:
        """Ends the thread, and what plays."""
        self._latest.close()
        self._thread.join(_PATIENCE_S)

    def _run(self) -> None:
        while (outcome := self._latest.take()) is not None:
            try:
                trouble = self._play(outcome)
            except FileNotFoundError:
                trouble = f"{self._program[0]} is not installed (Debian: alsa-utils)"
            except OSError as error:
                trouble = f"{self._program[0]} cannot be started: {error.strerror}"
            except Exception as error:  # noqa: BLE001 - a sound is no reason to end
                trouble = repr(error)
            self._tell(trouble)

    def _play(self, outcome: Outcome) -> str:
        """Plays it to its end, or until there is a newer one; what went wrong, in words."""
        sound = wav(outcome.pattern)
        length_s = sum(tone.ms for tone in outcome.pattern) / 1000
        with _memory("sound") as file, _memory("complaint") as complaint:
            file.write(sound)
            file.seek(0)
            deadline = time.monotonic() + length_s + _PATIENCE_S
            process = subprocess.Popen(
                self._program, stdin=file, stdout=subprocess.DEVNULL, stderr=complaint
            )
            try:
                while process.poll() is None:
                    if self._latest.newer(_LOOK_S):
                        return self._trouble  # nothing new is known
                    if time.monotonic() > deadline:
                        return f"{self._program[0]} does not end"
            finally:
                process.kill()
                process.wait()
            if process.returncode == 0:
                return ""
            complaint.seek(0)
            said = complaint.read(10_000).decode("utf-8", "replace").split("\n")
            last = next((line.strip() for line in reversed(said) if line.strip()), "no reason told")
            return f"{self._program[0]} failed ({process.returncode}): {last}"

    def _tell(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            _log.error("no sound: %s", trouble)
        elif self._trouble and not trouble:
            _log.info("sound works again")
        self._trouble = trouble


def _memory(name: str) -> IO[bytes]:
    return os.fdopen(os.memfd_create(name), "w+b")


@functools.cache
def wav(pattern: Pattern) -> bytes:
    """The pattern as a WAV file: 16 bits, one channel, 22050 samples a second."""
    samples = array("h")
    for tone in pattern:
        count = tone.ms * _RATE // 1000
        edge = _RATE * _EDGE_S
        for n in range(count):
            swell = min(1.0, n / edge, (count - n) / edge)
            height = math.sin(2 * math.pi * tone.hz * n / _RATE)
            samples.append(round(32_767 * _LOUDNESS * swell * height))
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(_RATE)
        out.writeframes(samples.tobytes())
    return file.getvalue()
