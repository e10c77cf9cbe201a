"""A clock that a test moves by hand."""

from dataclasses import dataclass


@dataclass
class FakeClock:
    """Implements edge.clock.Clock; `advance` moves both clocks, `step` the wall clock alone."""

    boottime: int = 1_000
    wall: int = 1_782_900_000_000
    trust: bool = True
    boot: bytes = b"boot-boot-boot-1"

    def boottime_ms(self) -> int:
        return self.boottime

    def wall_ms(self) -> int:
        return self.wall

    def trusted(self) -> bool:
        return self.trust

    def boot_id(self) -> bytes:
        return self.boot

    def advance(self, ms: int) -> None:
        self.boottime += ms
        self.wall += ms

    def step(self, ms: int) -> None:
        self.wall += ms
