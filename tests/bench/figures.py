"""Samples and what is said of them: percentiles, ratios, the table, the machine it ran on."""

import os
import platform
import sqlite3
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.rig import find_program


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of the table; what does not apply to it is empty."""

    what: str
    p50: str = ""
    p99: str = ""
    rate: str = ""
    ratio: str = ""
    mb: str = ""


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` of all samples do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, -(-len(ordered) * int(percent * 10) // 1000) - 1)]


def latency(what: str, seconds: Sequence[float], ratio: str = "") -> Figure:
    """A figure in milliseconds."""
    return Figure(what, _ms(percentile(seconds, 50)), _ms(percentile(seconds, 99)), "", ratio)


def rate(what: str, per_second: float, ratio: str = "") -> Figure:
    return Figure(what, rate=f"{per_second:,.0f}", ratio=ratio)


def memory(what: str, kilobytes: int, ratio: str = "") -> Figure:
    return Figure(what, ratio=ratio, mb=f"{kilobytes / 1024:.0f}")


def block_ratio(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> float:
    """The median over neighbouring blocks of (our p50 / their p50): noise hits both alike."""
    return median(median(a) / median(b) for a, b in zip(ours, theirs, strict=True))


def table(figures: Sequence[Figure]) -> str:
    """Aligned columns with a heading."""
    rows = [
        ("what", "p50 ms", "p99 ms", "per second", "MB", "ratio"),
        *((f.what, f.p50, f.p99, f.rate, f.mb, f.ratio) for f in figures),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = [
        f"{row[0]:<{widths[0]}}  "
        + "  ".join(f"{row[column]:>{widths[column]}}" for column in (1, 2, 3, 4))
        + f"  {row[5]}"
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(line.rstrip() for line in lines)


def machine(folder: Path) -> str:
    """Cores, versions and the file system that the figures were measured on."""
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), Linux {platform.release()},"
        f" Python {platform.python_version()}, SQLite {sqlite3.sqlite_version},"
        f" {_postgres()}, {_mosquitto()}, file system {file_system(folder)}"
    )


def file_system(folder: Path) -> str:
    """The type of the file system that holds `folder`."""
    folder = folder.resolve()
    found = Path("/"), "unknown"
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, at, kind, *_ = line.split()
        mounted = Path(at.encode().decode("unicode_escape"))
        if folder.is_relative_to(mounted) and len(mounted.parts) >= len(found[0].parts):
            found = mounted, kind
    return found[1]


def _postgres() -> str:
    servers = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    newest = max(servers, key=lambda path: int(path.parent.parent.name))
    out = subprocess.run([newest, "--version"], capture_output=True, text=True, check=True).stdout
    return f"PostgreSQL {out.split()[2]}"


def _mosquitto() -> str:
    program = find_program("mosquitto", "mosquitto")
    out = subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stdout
    return out.splitlines()[0].replace(" version", "")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3f}"
