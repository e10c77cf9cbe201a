"""Changing the language: a cookie, kept for a year, that holds nothing else."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from hub.web.access import local_path
from hub.web.visit import LANGUAGE_COOKIE, YEAR_S
from hub.web.words import Language

router = APIRouter(include_in_schema=False)


@router.post("/language")
def choose_language(
    request: Request,
    lang: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "/",  # noqa: A002  the form says so
) -> Response:
    """Back to the page that asked, in the language chosen; any other word means Chinese."""
    response = RedirectResponse(local_path(next), 303)
    response.set_cookie(
        LANGUAGE_COOKIE,
        Language.EN if lang == Language.EN else Language.ZH,
        max_age=YEAR_S,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return response
