"""What a part of the torture found, the table of it all, and the file that keeps it.

A line of the file is one run of one part: what was done, from which seed, on which commit, with
what outcome. Runs may be added up over commits that leave the code under test as it was.
"""

import json
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
KEPT: Final = Path(__file__).parent / "results.jsonl"


@dataclass(frozen=True, slots=True)
class Result:
    """`rounds` of what `part` does; `converged_s`: the longest until all was well again."""

    part: str
    rounds: int
    lost: int
    doubled: int
    note: str = ""
    converged_s: float | None = None

    @property
    def is_clean(self) -> bool:
        return not self.lost and not self.doubled


def commit() -> str:
    """The checkout's commit, with a + where files differ from it; empty where there is none."""
    if shutil.which("git") is None:
        return ""
    head = _git("rev-parse", "--short", "HEAD")
    return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def keep(result: Result, seed: int, seconds: float, path: Path = KEPT) -> None:
    """Adds a line."""
    line = {**asdict(result), "seed": seed, "commit": commit(), "seconds": round(seconds, 1)}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def kept(path: Path = KEPT) -> list[Result]:
    """Every run so far."""
    if not path.exists():
        return []
    fields = Result.__slots__
    return [
        Result(**{name: line[name] for name in fields if name in line})
        for line in map(json.loads, path.read_text("utf-8").splitlines())
    ]


def table(results: Iterable[Result]) -> str:
    """A line for each part, its runs added up."""
    parts: dict[str, list[Result]] = {}
    for each in results:
        parts.setdefault(each.part, []).append(each)
    rows: list[Sequence[str]] = [("fault", "rounds", "lost", "doubled", "converged s", "")]
    for name, found in parts.items():
        times = [each.converged_s for each in found if each.converged_s is not None]
        rows.append(
            (
                name,
                f"{sum(each.rounds for each in found):,}",
                str(sum(each.lost for each in found)),
                str(sum(each.doubled for each in found)),
                f"{max(times):.1f}" if times else "",
                found[-1].note,
            )
        )
    widths = [max(len(row[at]) for row in rows) for at in range(6)]
    lines = [
        "  ".join(
            [f"{row[0]:<{widths[0]}}", *(f"{row[at]:>{widths[at]}}" for at in (1, 2, 3, 4)), row[5]]
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _git(*arguments: str) -> str:
    found = subprocess.run(
        ["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()
