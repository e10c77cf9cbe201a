"""导入U盘文件: a file from a device that is on no network is uploaded, its receipts are downloaded.

What the file holds is verified like anything that a device sends, whoever uploads it. Of devices
beyond the caller's sub-tree only their number is told. Receipts wait for a while, in memory alone,
for whoever uploaded the file: imported again, it is answered again.
"""

import secrets
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, BinaryIO, Final
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from hub import audit
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.context import Context, Hub, page_right
from hub.domain.words import Words
from hub.imports.rows import MAX_BYTES
from hub.ingest.files import PIECE_BYTES, Carried, Taken, answer_name
from hub.store import schema as s
from hub.store.engine import reading
from hub.store.scope import sees_device
from hub.web.pages import page
from protocol.courierfile import Ending
from protocol.errors import Reason, RemoteError

KEPT: Final = 32
"""Answers that wait to be downloaded, of everybody together."""

Changing = Annotated[Caller, Depends(page_right(Right.DEVICES))]

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Receipts to be downloaded by who brought the file."""

    whose: tuple[int | None, int | None]
    name: str
    content: bytes


class Outbox:
    """Receipts that wait, the latest KEPT."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, Waiting] = OrderedDict()

    def put(self, caller: Caller, name: str, content: bytes) -> str:
        """Keeps it; gives what asks for it."""
        key = secrets.token_urlsafe(16)
        self._waiting[key] = Waiting((caller.account_id, caller.token_id), name, content)
        while len(self._waiting) > KEPT:
            self._waiting.popitem(last=False)
        return key

    def get(self, caller: Caller, key: str) -> Waiting | None:
        """What the caller put there; None where there is no such, or no more."""
        found = self._waiting.get(key)
        is_own = found is not None and found.whose == (caller.account_id, caller.token_id)
        return found if is_own else None


def _outbox(request: Request) -> Outbox:
    outbox: Outbox = request.app.state.outbox
    return outbox


Answers = Annotated[Outbox, Depends(_outbox)]


@router.get("/sticks")
def stick_page(caller: Changing) -> Response:
    """The form that takes a file."""
    return _form(caller, None)


@router.post("/sticks")
async def bring(request: Request, caller: Changing, hub: Hub, outbox: Answers) -> Response:
    """Take the file in, and say what was new."""
    async with request.form(max_files=1, max_fields=10) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile) or not file.size:
            return _form(caller, Words("请先选择一个文件。"))
        return await run_in_threadpool(_bring, caller, hub, outbox, file.file)


@router.get("/sticks/receipts")
def receipts(caller: Changing, outbox: Answers, of: str = "") -> Response:
    """The file for the way back."""
    found = outbox.get(caller, of)
    if found is None:
        raise HTTPException(404)
    return Response(
        found.content,
        media_type="application/octet-stream",
        headers={"Content-Disposition": f"attachment; filename*=UTF-8''{quote(found.name)}"},
    )


# --- Helpers ----------------------------------------------------------------------------------


def _bring(caller: Caller, hub: Context, outbox: Outbox, file: BinaryIO) -> Response:
    if hub.carry is None:
        raise HTTPException(503)
    try:
        carried = hub.carry(_pieces(file))
    except RemoteError as error:
        return _form(caller, _refused(error.reason))
    names = _names(caller, hub, carried)
    links = [
        (names[each.edge], outbox.put(caller, answer_name(each.edge), each.content))
        for each in carried.answers
        if each.edge in names
    ]
    with hub.engine.begin() as conn:
        for edge in names:
            audit.record(
                conn,
                caller,
                "device.import",
                caller.organisation_id,
                "device",
                UUID(bytes=edge),
                hub.clock(),
                entries=carried.taken.entries,
            )
    return page(
        "sticks.html",
        caller=caller,
        section="devices",
        errors={},
        said=list(_said(carried.taken, list(names.values()))),
        links=links,
        most_mb=MAX_BYTES >> 20,
    )


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece


def _names(caller: Caller, hub: Context, carried: Carried) -> dict[bytes, str]:
    """The devices of the caller's sub-tree that the file is of."""
    ids = [UUID(bytes=edge) for edge in carried.taken.edges]
    with reading(hub.engine) as conn:
        rows = conn.execute(
            select(s.devices.c.public_id, s.devices.c.name).where(
                s.devices.c.public_id.in_(ids), sees_device(caller.organisation_id)
            )
        ).all()
    return {row.public_id.bytes: row.name for row in rows}


def _said(taken: Taken, names: list[str]) -> Iterator[tuple[str, Words]]:
    """What the file brought: how it is shown, and the words."""
    whose = "、".join(names)
    others = len(taken.edges) - len(names)
    if names and taken.entries:
        yield "ok", Words("{devices}：收到新记录 {n} 条。", devices=whose, n=taken.entries)
    elif names:
        yield "info", Words("{devices}：没有新记录，文件里的以前都收到了。", devices=whose)
    if others:
        yield "info", Words("还有其他组织的设备 {n} 台，记录已经收下。", n=others)
    if taken.held:
        yield (
            "warn",
            Words("有 {n} 批记录来自已退役或失密的设备，核准以后才计入考勤。", n=taken.held),
        )
    if taken.refused:
        reasons = "、".join(sorted(taken.rejected))
        yield (
            "warn",
            Words(
                "有 {n} 项内容没有收下（{reasons}）：不是在本系统登记的设备写的，或者已经损坏。",
                n=taken.refused,
                reasons=reasons,
            ),
        )
    if taken.ending is not Ending.WHOLE or taken.problem:
        yield (
            "warn",
            Words("文件不完整，完好的部分已经收下。设备上的记录还在：请把U盘再插到设备上一次。"),
        )
    elif not taken.items:
        yield "info", Words("文件里没有记录。")


def _refused(reason: Reason) -> Words:
    if reason is Reason.FUTURE_VERSION:
        return Words("这个文件来自更新的版本：请先升级系统。什么都没有导入。")
    if reason is Reason.WRONG_TYPE:
        return Words("这是给设备的回执，不是设备的记录：请选择以 .up 结尾的文件。")
    return Words("这不是设备写的U盘文件，什么都没有导入。")


def _form(caller: Caller, error: Words | None) -> Response:
    return page(
        "sticks.html",
        200 if error is None else 422,
        caller=caller,
        section="devices",
        errors={} if error is None else {"file": error},
        said=[],
        links=[],
        most_mb=MAX_BYTES >> 20,
    )
