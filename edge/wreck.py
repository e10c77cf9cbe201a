"""Rows out of a SQLite file that SQLite itself reads no more.

Takes the file's pages, and those in its write-ahead log, one by one, and reads whatever looks like
a row on them (SQLite's file format, sections 1.5, 1.6, 2.1 and 4.1). Nothing that links the pages
is needed, and nothing found is vouched for: a row may be old, deleted or rotten. Who takes it holds
it to digests of its own.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

Value = int | float | bytes | str | None
Row = tuple[Value, ...]
_PageOf = Callable[[int], bytes]

PAGE_BYTES: Final = 4096
MAX_ROW_BYTES: Final = 1 << 20
_INTERIOR_INDEX: Final = 0x02
_INTERIOR_TABLE: Final = 0x05
_LEAF_INDEX: Final = 0x0A
_LEAF_TABLE: Final = 0x0D
_FILE_HEADER_BYTES: Final = 100
_LOG_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24
_INT_BYTES: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


def rows(path: Path, log: Path) -> Iterator[tuple[int | None, Row]]:
    """(rowid, values) of each row that can be made out; None as rowid where a table has none.

    Either file may be missing. Raises OSError where one cannot be read at all.
    """
    file = _bytes(path)
    size = _page_bytes(file)
    latest: dict[int, bytes] = {}
    frames = []
    written = _bytes(log)
    at = _LOG_HEADER_BYTES
    while at + _FRAME_HEADER_BYTES + size <= len(written):
        number = int.from_bytes(written[at : at + 4], "big")
        page = written[at + _FRAME_HEADER_BYTES : at + _FRAME_HEADER_BYTES + size]
        frames.append((number, page))
        latest[number] = page
        at += _FRAME_HEADER_BYTES + size

    def page_of(number: int) -> bytes:
        return latest.get(number) or file[(number - 1) * size : number * size]

    for start in range(0, len(file), size):
        number = start // size + 1
        yield from _rows_on(file[start : start + size], number, size, page_of)
    for number, page in frames:
        yield from _rows_on(page, number, size, page_of)


def _bytes(path: Path) -> bytes:
    """What of a file can be read: zeros where a sector cannot."""
    try:
        with path.open("rb", buffering=0) as file:
            length = path.stat().st_size
            found = bytearray(length)
            for at in range(0, length, PAGE_BYTES):
                with contextlib.suppress(OSError):
                    file.seek(at)
                    part = file.read(PAGE_BYTES)
                    found[at : at + len(part)] = part
            return bytes(found)
    except FileNotFoundError:
        return b""


def _page_bytes(file: bytes) -> int:
    size = int.from_bytes(file[16:18], "big")
    return size if size in {1 << n for n in range(9, 16)} else PAGE_BYTES


def _rows_on(
    page: bytes, number: int, size: int, page_of: _PageOf
) -> Iterator[tuple[int | None, Row]]:
    head = _FILE_HEADER_BYTES if number == 1 else 0
    kind = page[head] if len(page) > head else _INTERIOR_TABLE
    if kind == _INTERIOR_TABLE:
        return
    if kind not in {_INTERIOR_INDEX, _LEAF_TABLE}:
        kind = _LEAF_INDEX  # as nearly all are: it may be the kind that rotted
    # Not as many pointers as the page says, which may have rotted too: all up to the first row.
    at = head + (12 if kind == _INTERIOR_INDEX else 8)
    rows_from = size
    while at + 2 <= min(rows_from, len(page)):
        pointer = int.from_bytes(page[at : at + 2], "big")
        at += 2
        if not at <= pointer < size:
            continue
        with contextlib.suppress(IndexError, ValueError, OverflowError):
            row = _row(page, pointer, kind, size, page_of)
            rows_from = min(rows_from, pointer)
            yield row


def _row(page: bytes, at: int, kind: int, size: int, page_of: _PageOf) -> tuple[int | None, Row]:
    if kind == _INTERIOR_INDEX:
        at += 4  # the page to the left
    length, at = _varint(page, at)
    rowid = None
    if kind == _LEAF_TABLE:
        rowid, at = _varint(page, at)
    if length > MAX_ROW_BYTES:
        raise ValueError("no row is so long")
    least = (size - 12) * 32 // 255 - 23
    most = size - 35 if kind == _LEAF_TABLE else (size - 12) * 64 // 255 - 23
    here = length
    if length > most:
        here = least + (length - least) % (size - 4)
        here = least if here > most else here
    content = page[at : at + here]
    follows = int.from_bytes(page[at + here : at + here + 4], "big") if here < length else 0
    while follows and len(content) < length:
        more = page_of(follows)
        if not more:
            break
        follows = int.from_bytes(more[:4], "big")
        content += more[4:]
    if len(content) < length:
        raise ValueError("a part of it is missing")
    return rowid, _values(content[:length])


def _values(record: bytes) -> Row:
    header, at = _varint(record, 0)
    body = header
    values: list[Value] = []
    while at < header:
        kind, at = _varint(record, at)
        value, body = _value(record, kind, body)
        values.append(value)
    return tuple(values)


def _value(record: bytes, kind: int, at: int) -> tuple[Value, int]:
    if kind in {0, 8, 9}:
        return (None if kind == 0 else kind - 8), at
    if kind in _INT_BYTES:
        end = at + _INT_BYTES[kind]
        return int.from_bytes(record[at:end], "big", signed=True), end
    if kind >= 12:
        end = at + (kind - 12) // 2
        if end > len(record):
            raise ValueError("a value goes on beyond its row")
        content = record[at:end]
        return (content.decode("utf-8", "replace") if kind % 2 else content), end
    raise ValueError("no value of ours")


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for _ in range(8):
        byte = content[at]
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at
    return value << 8 | content[at], at + 1
