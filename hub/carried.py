"""`shuaka-hub import-journal`: files from sticks in, receipts for the sticks out, told in words.

Each file is taken as far as it is whole, one after another; one that cannot be read stops no other.
Receipts are written once all is committed, beside the files that they answer.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from sqlalchemy import Engine

from hub.ingest.files import (
    UP_SUFFIX,
    FileIngest,
    Taken,
    answer_name,
    files_in,
    names,
    pieces_of,
    write_whole,
)
from hub.keys import Keyring
from hub.store.engine import reading
from protocol.courierfile import Ending
from protocol.errors import RemoteError

Say = Callable[[str], None]


def import_paths(
    engine: Engine,
    keyring: Keyring,
    paths: Sequence[Path],
    receipts: Path | None,
    now_ms: int,
    say: Say,
) -> bool:
    """Takes the files and folders in and says what was new; whether all went well.

    `receipts` is the folder for the receipts; None: that of the files of each device.
    """
    ingest = FileIngest(engine, keyring, now_ms)
    well = True
    folders: dict[bytes, dict[Path, None]] = {}
    for file in _files(paths, lambda words: say(f"not read: {words}")):
        if isinstance(file, _Missing):
            well = False
            continue
        try:
            taken = ingest.take(pieces_of(file))
        except RemoteError as error:
            say(f"{file}: refused: {error.detail} ({error.reason}); nothing was taken")
            well = False
            continue
        except OSError as error:
            say(f"{file}: cannot be read: {error.strerror}")
            well = False
            continue
        for edge in taken.edges:
            folders.setdefault(edge, {})[file.parent] = None
        with reading(engine) as conn:
            known = names(conn, taken.edges)
        for line in told(taken, known):
            say(f"{file}: {line}")
        well = well and taken.is_sound
    ingest.derive()
    return _write_receipts(engine, ingest, folders, receipts, say) and well


def told(taken: Taken, known: Mapping[bytes, str]) -> Iterator[str]:
    """What a file brought, in words."""
    whose = "、".join(known.get(edge, edge.hex()) for edge in taken.edges) or "no device"
    if taken.batches:
        yield f"{whose}: {taken.entries} new entries, in {taken.batches} batches"
    elif taken.edges:
        yield f"{whose}: nothing new, everything in it was here already"
    if taken.held:
        yield (
            f"{taken.held} batches are held, of a device that has left or is compromised:"
            " they count once somebody admits them"
        )
    for edge in taken.left:
        yield f"{known.get(edge, edge.hex())} has retired: everything it held is here"
    if taken.rejected:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(taken.rejected.items()))
        yield f"{taken.refused} of {taken.items} items were refused ({reasons})"
    if taken.ending is Ending.TRUNCATED and not taken.refused:
        yield (
            f"cut off after {taken.items} items ({taken.problem}): what is whole was taken; bring"
            " it once more"
        )
    elif taken.problem:
        yield f"not whole ({taken.problem}): its first {taken.items} items were read"
    if not taken.items:
        yield "there is nothing in it"


class _Missing:
    """In place of what could not be looked into."""


def _files(paths: Iterable[Path], missing: Say) -> Iterator[Path | _Missing]:
    for path in paths:
        try:
            found = files_in(path)
        except OSError as error:
            missing(f"{path}: {error.strerror}")
            yield _Missing()
            continue
        if not found:
            missing(f"{path}: no file in it is called *{UP_SUFFIX}")
            yield _Missing()
        yield from found


def _write_receipts(
    engine: Engine,
    ingest: FileIngest,
    folders: Mapping[bytes, Iterable[Path]],
    into: Path | None,
    say: Say,
) -> bool:
    answers = list(ingest.answers())
    with reading(engine) as conn:
        known = names(conn, [edge for edge, _, _ in answers])
    failed: Counter[str] = Counter()
    for edge, number, content in answers:
        for folder in [into] if into is not None else folders[edge]:
            path = folder / answer_name(edge)
            try:
                write_whole(path, content)
            except OSError as error:
                failed[f"{folder}: {error.strerror}"] += 1
            else:
                say(f"{path}: receipts for {known.get(edge, edge.hex())}, {number} epochs")
    for why in failed:
        say(
            f"the receipts could not be written ({why}). What was taken is kept: import the same"
            " once more, with --receipts FOLDER"
        )
    return not failed
