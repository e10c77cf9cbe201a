"""What each role may do within its sub-tree. The one table; routes name a right, never a role."""

from enum import StrEnum
from typing import Final

from hub.domain.terms import Role


class Right(StrEnum):
    """Something that a route asks for."""

    VIEW = "VIEW"
    """See attendance with names."""
    MEETINGS = "MEETINGS"
    """Create and change meetings, state what happened, decide on leave and 补签."""
    TAPS = "TAPS"
    """Say whose card an unknown one is, and to which meeting a tap belongs."""
    PEOPLE = "PEOPLE"
    """Change the registers: organisations, members, cards, venues."""
    DEVICES_VIEW = "DEVICES_VIEW"
    """See how devices are."""
    DEVICES = "DEVICES"
    """Add, place, rename and retire devices, settle a forked record."""
    TRUST = "TRUST"
    """Say from when on a device is not believed, and what of it counts all the same."""
    ACCESS = "ACCESS"
    """Make and end accounts, tokens and sessions of others."""
    AUDIT = "AUDIT"
    """Read what was done, and who looked at what."""
    OWN = "OWN"
    """See one's own attendance, ask for leave or 补签, object."""


_RIGHTS: Final[dict[Role, frozenset[Right]]] = {
    Role.OPERATOR: frozenset(Right) - {Right.OWN},
    Role.SECRETARY: frozenset({Right.VIEW, Right.MEETINGS, Right.TAPS, Right.DEVICES_VIEW}),
    Role.AUDITOR: frozenset({Right.VIEW, Right.DEVICES_VIEW, Right.AUDIT}),
    Role.TECHNICIAN: frozenset({Right.DEVICES_VIEW, Right.DEVICES}),
    Role.MEMBER: frozenset(),
}


def rights_of(role: Role, member_id: int | None) -> frozenset[Right]:
    """What a role may do; whoever is a member known to the hub sees their own page too."""
    return _RIGHTS[role] | (frozenset() if member_id is None else frozenset({Right.OWN}))
