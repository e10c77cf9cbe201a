"""Debounce: which reading of a card is a new tap, and which repeats one already recorded.

A reading repeats when the same credential was recorded and last appeared less than `window_ms`
ago, on any reader of the device. Each appearance renews the window, so a card that lies on the
reader and is seen again and again is one tap, as are five quick taps; but for at most
LONGEST_RUN_MS after the recorded tap. Where it is known when a meeting's check-in opened, what was
recorded before that is repeated by nothing after it: consecutive meetings get a tap each.

Only what was durably recorded can be repeated: call `recorded` after the journal's commit. A
record that failed, or is still under way, never turns the next try into a repeat; at worst a tap
is recorded twice, which the hub counts once. Two cards are never one.

Time is CLOCK_BOOTTIME, which no clock correction moves and which counts sleep. Pure: no clock,
no I/O. Not for use by several threads at once.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from protocol.credential import Credential

DEFAULT_WINDOW_MS: Final = 3000
LONGEST_RUN_MS: Final = 120_000
MAX_REMEMBERED: Final = 4096
"""Credentials remembered; beyond that the one not seen for longest is forgotten."""


@dataclass(slots=True)
class _Run:
    began_ms: int
    last_ms: int


class Debounce:
    """Remembers recent credentials, as keyed hashes and not as numbers.

    `key`: random bytes (at most 64), new for each process. `window_ms` 0 lets every reading be a
    tap.
    """

    def __init__(
        self,
        key: bytes,
        *,
        window_ms: int = DEFAULT_WINDOW_MS,
        max_remembered: int = MAX_REMEMBERED,
    ) -> None:
        if window_ms < 0 or max_remembered < 1:
            raise ValueError("window_ms must not be negative, and something must be remembered")
        self._key = key
        self._window_ms = window_ms
        self._max_remembered = max_remembered
        self._runs: OrderedDict[bytes, _Run] = OrderedDict()

    def __len__(self) -> int:
        """How many credentials are remembered."""
        return len(self._runs)

    def repeats(
        self, credential: Credential, boottime_ms: int, opened_ms: int | None = None
    ) -> bool:
        """Whether this reading repeats a recorded tap; if so, its window begins anew.

        `opened_ms`: when check-in opened last here, by CLOCK_BOOTTIME; None where nobody knows.
        """
        fingerprint = self._fingerprint(credential)
        run = self._runs.get(fingerprint)
        if run is None or not self._within(run, boottime_ms):
            return False
        if opened_ms is not None and run.began_ms < opened_ms <= boottime_ms:
            return False
        run.last_ms = max(run.last_ms, boottime_ms)
        self._runs.move_to_end(fingerprint)
        return True

    def recorded(self, credential: Credential, boottime_ms: int) -> None:
        """The tap read at `boottime_ms` is durable."""
        fingerprint = self._fingerprint(credential)
        self._runs[fingerprint] = _Run(boottime_ms, boottime_ms)
        self._runs.move_to_end(fingerprint)
        while self._runs and self._is_over(next(iter(self._runs.values())), boottime_ms):
            self._runs.popitem(last=False)
        while len(self._runs) > self._max_remembered:
            self._runs.popitem(last=False)

    def _within(self, run: _Run, at_ms: int) -> bool:
        # Readers report on their own threads, so a reading may be slightly older than the last.
        return abs(at_ms - run.last_ms) < self._window_ms and at_ms - run.began_ms < LONGEST_RUN_MS

    def _is_over(self, run: _Run, now_ms: int) -> bool:
        return now_ms - run.last_ms >= 2 * self._window_ms

    def _fingerprint(self, credential: Credential) -> bytes:
        digest = hashlib.blake2b(digest_size=16, key=self._key)
        for text in (credential.scheme, credential.issuer, credential.value):
            raw = text.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(4) + raw)
        return digest.digest()
