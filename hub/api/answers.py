"""The failures that routes of the API describe: what each status means, told once."""

from typing import Any, Final

from hub.api.models import Problem

Answers = dict[int | str, dict[str, Any]]
"""What `responses=` of a route takes."""


def problem(words: str) -> dict[str, Any]:
    """A described failure."""
    return {"model": Problem, "description": words}


UNAVAILABLE: Final[Answers] = {
    503: problem("The database, or what this needs, cannot be used now.")
}
LISTED: Final[Answers] = {
    401: problem("No token, or one that is unknown, expired or revoked."),
    403: problem("The token's role may not do this."),
    422: problem("A parameter or field is wrong; it is named."),
    **UNAVAILABLE,
}
"""Of a list, or of what is the caller's own."""
OF_ONE: Final[Answers] = {
    **LISTED,
    404: problem("Does not exist, or not in the token's sub-tree."),
}
"""Of something that the path or the query names."""
DONE: Final[Answers] = {
    **OF_ONE,
    400: problem("The body is no text."),
    409: problem("It cannot be done as things stand; the field and why are said."),
    413: problem("The request is too large."),
}
"""Of an act."""
