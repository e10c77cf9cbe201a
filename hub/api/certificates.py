"""The route by which a device gets its certificate for the broker: open, as enrolment is.

What is asked is believed for its signature; hub.certificates says who gets one.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Final

from fastapi import APIRouter, HTTPException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from hub.api.answers import UNAVAILABLE, problem
from hub.certificates import CertificateRefusedError
from hub.context import Hub

_MAX_CHARS: Final = 8192

router = APIRouter(prefix="/api/v1")


def _bytes(text: str) -> bytes:
    try:
        return urlsafe_b64decode(text.encode("ascii") + b"==")
    except ValueError:
        raise ValueError("is not in base64url without padding (RFC 4648, section 5)") from None


def _checked(text: str) -> str:
    _bytes(text)
    return text


class CertificateRequestIn(BaseModel):
    """What an edge sends. Fields not named here are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)

    request: Annotated[str, AfterValidator(_checked)] = Field(
        min_length=1,
        max_length=_MAX_CHARS,
        pattern="^[A-Za-z0-9_-]+$",
        description="The signed certificate request (docs/wire.md), in base64url without padding.",
    )


class CertificateOut(BaseModel):
    """The hub's signed answer."""

    answer: str = Field(description="The signed certificate, in base64url without padding.")


@router.post(
    "/certificate",
    tags=["devices"],
    responses={
        400: problem("The body is no text."),
        403: problem("The signature is no active device's."),
        409: problem("This very request was answered already."),
        413: problem("The request is too large."),
        422: problem("A field is missing or wrong, or holds no request."),
        429: problem("The device asks too often."),
        **UNAVAILABLE,
    },
)
def certificate(hub: Hub, asked: CertificateRequestIn) -> CertificateOut:
    """A device's certificate for the broker, its first or its next."""
    if hub.certify is None:
        raise HTTPException(503, "this hub gives no certificates")
    try:
        answer = hub.certify(_bytes(asked.request))
    except CertificateRefusedError as error:
        raise HTTPException(error.status, error.detail) from error
    return CertificateOut(answer=urlsafe_b64encode(answer).decode().rstrip("="))
