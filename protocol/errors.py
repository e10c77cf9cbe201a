"""Whose fault it is.

A `RemoteError` is what the other side, or whoever pretends to be it, got wrong: it carries a
`Reason` that is counted and shown, and it must never stop the receiver. A `LocalError` is a
mistake on our own side of the call: a bug, to be seen and mended.
"""

from enum import StrEnum


class Reason(StrEnum):
    """Why a message was not taken. Counted by the hub, shown to operators, kept stable."""

    OVERSIZE = "oversize"
    MALFORMED = "malformed"
    FUTURE_VERSION = "future_version"
    WRONG_TYPE = "wrong_type"
    WRONG_TOPIC = "wrong_topic"
    UNKNOWN_DEVICE = "unknown_device"
    INACTIVE_DEVICE = "inactive_device"
    BAD_SIGNATURE = "bad_signature"
    UNKNOWN_EPOCH = "unknown_epoch"
    UNKNOWN_HUB_KEY = "unknown_hub_key"
    DAMAGED_SUBJECTS = "damaged_subjects"
    CONFLICT = "conflict"
    BROKEN_ENTRY = "broken_entry"
    """The one that is counted although its batch is taken: an entry in it cannot be decoded."""


class ShuakaError(Exception):
    """Base of everything this package raises on purpose."""


class LocalError(ShuakaError):
    """Our own side called something it must not."""


class RemoteError(ShuakaError):
    """The other side sent something that cannot be taken; `reason` is the class of it."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
