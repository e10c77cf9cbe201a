"""Objections that wait, for whoever has `Right.MEETINGS` over the host: the list and the decision.

What is shown of a member here is a look at that member's data, and written down.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Form, Response
from sqlalchemy import Connection, select

from hub import objections as service
from hub.api.own import look
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.context import Context, Hub, page_right
from hub.domain.words import Words
from hub.evidence import entry, whom, without_cards
from hub.objections import MAX_REASON_CHARS, Objection, ObjectionError, ObjectionState
from hub.store import schema as s
from hub.store.engine import reading
from hub.web.own import Worded, shown
from hub.web.pages import page
from hub.web.visit import done
from hub.web.words import t

Asking = Annotated[Caller, Depends(page_right(Right.MEETINGS))]
Text = Annotated[str, Form()]

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class _Line:
    public_id: str
    member: str
    meeting: str
    day: str
    words: str
    made: str
    obstacle: str
    """Why whoever asks may not decide it; empty: they may."""


@router.get("/objections")
def open_objections(caller: Asking, hub: Hub) -> Response:
    """Those that wait, the oldest first."""
    told = Worded(hub.zone)
    with reading(hub.engine) as conn:
        found = service.open_objections(conn, caller.organisation_id)
        lines = [
            _Line(
                each.public_id,
                _named(conn, caller, each)[0],
                each.meeting,
                hub.local(each.starts_ms).date().isoformat(),
                each.words,
                told.when(each.made_ms),
                t(service.obstacle(conn, caller, each) or ""),
            )
            for each in found
        ]
    for each in found:
        hub.looks(caller, look("objection.page", each))
    return page("objections.html", caller=caller, section="objections", lines=lines)


@router.get("/objections/{objection}")
def one_objection(caller: Asking, hub: Hub, objection: UUID) -> Response:
    """One objection, the evidence beside it, and the form that decides it."""
    return _page(caller, hub, objection, {}, {})


@router.post("/objections/{objection}")
def decide(
    caller: Asking, hub: Hub, objection: UUID, upheld: Text = "", reason: Text = ""
) -> Response:
    """Decide it."""
    values = {"upheld": upheld, "reason": reason}
    if upheld not in {"yes", "no"}:
        errors = {"upheld": Words("请选择异议是否成立")}
        return _page(caller, hub, objection, values, errors)
    try:
        with hub.engine.begin() as conn:
            service.decide(
                conn,
                caller,
                objection,
                upheld=upheld == "yes",
                reason=reason,
                now_ms=hub.clock(),
            )
    except ObjectionError as error:
        return _page(caller, hub, objection, values, {error.field: error})
    if upheld == "yes":
        words = Words("异议成立，已告知本人。考勤不会自动改，请按下面的提示办理更正。")
        return done(f"/objections/{objection}", words)
    return done("/objections", Words("已处理，结果会显示在本人的页面上。"))


def _named(conn: Connection, caller: Caller, each: Objection) -> tuple[str, bool]:
    """Who objected, as the caller may know them, and whether that is a name."""
    row = conn.execute(select(s.meetings).where(s.meetings.c.id == each.meeting_id)).one()
    found = whom(conn, caller.organisation_id, row, each.member_id)
    if found.name is not None:
        return found.name, True
    return t("列席人员（{branch}）", branch=found.branch or t("外单位人员")), False


def _page(
    caller: Caller,
    hub: Context,
    objection: UUID,
    values: dict[str, str],
    errors: Mapping[str, object],
) -> Response:
    told = Worded(hub.zone)
    with reading(hub.engine) as conn:
        found = service.find_objection(conn, caller.organisation_id, objection)
        row = conn.execute(select(s.meetings).where(s.meetings.c.id == found.meeting_id)).one()
        # Not the class of a leave's reason: that is for the member and who decides on the leave.
        evidence = entry(conn, row, found.member_id, hub.clock(), hub.zone)
        why_not = service.obstacle(conn, caller, found)
        member, is_named = _named(conn, caller, found)
    if not is_named:
        evidence = without_cards(evidence)
    hub.looks(caller, look("objection.page", found))
    return page(
        "objection.html",
        422 if errors else 200,
        caller=caller,
        section="objections",
        member=member,
        objection=told.objection(found),
        is_open=found.state is ObjectionState.OPEN,
        is_upheld=found.state is ObjectionState.UPHELD,
        why_not=why_not,
        values={"upheld": "", "reason": "", **values},
        errors=errors,
        most=MAX_REASON_CHARS,
        **{k: v for k, v in shown(evidence, [], told).items() if k != "objections"},
    )
