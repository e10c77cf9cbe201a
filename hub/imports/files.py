"""A file of bytes, of whichever kind, as a `Grid`."""

from hub.imports.csvfile import read_csv
from hub.imports.rows import MAX_BYTES, Grid, Problem
from hub.imports.workbook import is_workbook, read_workbook


def read_file(data: bytes, problems: list[Problem]) -> Grid | None:
    """What an Excel or CSV file holds, or None and the problems of the file itself."""
    if len(data) > MAX_BYTES:
        problems.append(Problem(None, None, None, f"文件超过{MAX_BYTES >> 20} MB：请分成几个文件"))
        return None
    return read_workbook(data, problems) if is_workbook(data) else read_csv(data, problems)
