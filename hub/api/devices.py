"""`/api/v1/devices` and `/api/v1/venues`: how devices are, adding and placing them.

An enrolment code is in the one answer that made it, and nowhere else.
"""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import Field
from sqlalchemy import Connection

from hub import devices as service
from hub import fleet, leaving
from hub import venues as venue_service
from hub.api.answers import DONE, LISTED, OF_ONE
from hub.api.models import In, Moment, Out, Paged, Ref, Time, Told, named
from hub.api.taps import doing, ms
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.context import Context, Hub, Joining, api_right
from hub.devices import Added
from hub.domain.terms import DeviceStatus, OtherHistory
from hub.store.engine import reading
from hub.store.scope import find_device, find_venue
from hub.venues import MAX_CODE_CHARS, MAX_NAME_CHARS

Looking = Annotated[Caller, Depends(api_right(Right.DEVICES_VIEW))]
Changing = Annotated[Caller, Depends(api_right(Right.DEVICES))]
Trusting = Annotated[Caller, Depends(api_right(Right.TRUST))]

router = APIRouter(prefix="/api/v1", tags=["devices"])


# --- In and out -----------------------------------------------------------------------------------


class NewDevice(In):
    """A device to add."""

    name: str = Field(min_length=1, max_length=service.MAX_NAME_CHARS)
    venue: UUID


class PlacementRequest(In):
    """Where a device is from a time on."""

    venue: UUID | None = Field(description="Null: at none.")
    at: Moment
    replaces: bool = Field(
        False, description="Whether what was said of its place at later times is given up."
    )


class NewVenue(In):
    """A venue to add."""

    code: str = Field(min_length=1, max_length=MAX_CODE_CHARS, pattern=r"^\S+$")
    name: str = Field(min_length=1, max_length=MAX_NAME_CHARS)
    organisation: UUID


class VenueChange(In):
    """What a venue is called and whose it is."""

    name: str = Field(min_length=1, max_length=MAX_NAME_CHARS)
    organisation: UUID


class Reasoned(In):
    """Something done with a device, and why."""

    reason: str = Field(
        min_length=1, max_length=leaving.MAX_REASON_CHARS, description="Why, for the log."
    )


class Retirement(Reasoned):
    """That a device is to leave."""

    gone: bool = Field(
        False, description="It is lost or broken: it has left now, and may hold what never came in."
    )


class Compromise(Reasoned):
    """That a device, or its key, is in wrong hands."""

    since: Moment = Field(description="What came in from it before stays.")


class Admission(Reasoned):
    """What came in from a device from a time until before another, by the hub's clock."""

    since: Moment
    until: Moment


class Settlement(Reasoned):
    """What became of the other history of a device whose record had forked."""

    other: OtherHistory


class Renaming(Reasoned):
    """What a device is called."""

    name: str = Field(min_length=1, max_length=service.MAX_NAME_CHARS)


class ReaderOut(Out):
    """A card reader, as the device names it."""

    name: str
    up: bool


class ClockOut(Out):
    """The device's clock, as of its newest statement."""

    trusted: bool
    offset_ms: int = Field(description="How far it is ahead of the hub's.")


class RehearsalOut(Out):
    """The device's last rehearsal (演练): virtual cards, which count for nothing."""

    at: Time = Field(description="When the last of it came in.")
    taps: int = Field(description="Taps of virtual cards that came.")


class PlacementOut(Out):
    """Where a device stood."""

    venue: str | None = Field(description="Null: at a venue outside of the sub-tree.")
    valid_from: Time
    valid_to: Time | None


class WaitingOut(Out):
    """What came in from a device that has left or is compromised, and waits to be admitted."""

    entries: int
    first_received: Time
    last_received: Time


class LeavingOut(Out):
    """How a device leaves the fleet, or left it."""

    retiring_since: Time | None = Field(description="When it was told to retire.")
    left_at: Time | None
    gone: bool = Field(description="It left without a last word: it may hold what never came in.")
    compromised_since: Time | None
    waiting: WaitingOut | None
    forked: bool = Field(description="Its record has two histories, and nobody has settled that.")


class DeviceStateOut(Out):
    """A device and how it is."""

    public_id: str
    name: str
    status: DeviceStatus
    venue: Ref | None
    placed_from: Time | None
    code_expires_at: Time | None = Field(description="Until when its code can be used.")
    last_contact: Time | None
    unreceipted: int | None = Field(description="Entries that it has not sent yet; null: unknown.")
    clock: ClockOut | None
    readers: list[ReaderOut]
    software: str | None
    complete_through: Time | None
    rehearsal: RehearsalOut | None
    leaving: LeavingOut
    troubles: list[str] = Field(description="What is wrong, in Chinese, the gravest first.")


class DeviceList(Out):
    """Devices, by name."""

    total: int
    limit: int
    offset: int
    as_of: Time
    items: list[DeviceStateOut]


class DeviceDetailOut(Out):
    """A device and where it stood, the latest first."""

    device: DeviceStateOut
    placements: list[PlacementOut]


class CodeOut(Out):
    """A one-time code to enrol a device with."""

    device: str = Field(description="Its public id.")
    name: str
    code: str = Field(description="Not told again.")
    expires_at: Time


class VenueOut(Out):
    """A venue and how many devices stand there."""

    public_id: str
    code: str
    name: str
    organisation: Ref
    devices: int


class VenueList(Out):
    """Venues, by organisation and name."""

    total: int
    limit: int
    offset: int
    items: list[VenueOut]


# --- Devices --------------------------------------------------------------------------------------


@router.get("/devices", responses=LISTED)
def list_devices(caller: Looking, hub: Hub, query: Annotated[Paged, Query()]) -> DeviceList:
    """The devices of the sub-tree and how they are."""
    now_ms = hub.clock()
    with reading(hub.engine) as conn:
        found = fleet.devices(conn, caller.organisation_id, now_ms, hub.zone)
    told = Told(hub.zone)
    return DeviceList(
        total=len(found),
        limit=query.limit,
        offset=query.offset,
        as_of=told.time(now_ms),
        items=[_state(each, told) for each in found[query.offset :][: query.limit]],
    )


@router.post("/devices", responses=DONE, status_code=201)
def add_device(caller: Changing, hub: Hub, wanted: NewDevice) -> CodeOut:
    """Add a device; again for one that waits at that venue: a new code."""
    joining = _joining(hub)
    with doing(hub) as conn:
        venue = find_venue(conn, caller.organisation_id, wanted.venue)
        added = service.add_device(
            conn, caller, joining.fingerprint, wanted.name, venue.code, hub.clock()
        )
    return _code(added, hub)


@router.get("/devices/{device}", responses=OF_ONE)
def show_device(caller: Looking, hub: Hub, device: UUID) -> DeviceDetailOut:
    """A device, how it is, and where it stood."""
    with reading(hub.engine) as conn:
        return _detail(conn, caller, hub, device)


@router.post("/devices/{device}/code", responses=DONE, status_code=201)
def new_device_code(caller: Changing, hub: Hub, device: UUID) -> CodeOut:
    """A new code for a device that waits to be enrolled; the old one ends."""
    with doing(hub) as conn:
        row = find_device(conn, caller.organisation_id, device)
        fingerprint = _joining(hub).fingerprint
        added = service.new_code(conn, caller, fingerprint, row, hub.clock())
    return _code(added, hub)


@router.post("/devices/{device}/placements", responses=DONE)
def place_device(
    caller: Changing, hub: Hub, device: UUID, wanted: PlacementRequest
) -> DeviceDetailOut:
    """Say where it is from a time on; what it recorded since is counted anew."""
    with doing(hub) as conn:
        row = find_device(conn, caller.organisation_id, device)
        venue = (
            None if wanted.venue is None else find_venue(conn, caller.organisation_id, wanted.venue)
        )
        service.place(
            conn, caller, row, venue, ms(wanted.at), hub.clock(), replaces=wanted.replaces
        )
        return _detail(conn, caller, hub, device)


@router.post("/devices/{device}/retirement", responses=DONE)
def retire_device(caller: Changing, hub: Hub, device: UUID, wanted: Retirement) -> DeviceDetailOut:
    """Tell it to record nothing more and to hand over what it holds; or, gone, it has left now."""
    with doing(hub) as conn:
        find_device(conn, caller.organisation_id, device)
        act = leaving.give_up if wanted.gone else leaving.retire
        act(conn, caller, device, wanted.reason, hub.clock())
        return _detail(conn, caller, hub, device)


@router.post("/devices/{device}/compromise", responses=DONE)
def declare_device_compromised(
    caller: Trusting, hub: Hub, device: UUID, wanted: Compromise
) -> DeviceDetailOut:
    """What came in from it since then counts no more; later arrivals are held until admitted."""
    with doing(hub) as conn:
        find_device(conn, caller.organisation_id, device)
        leaving.compromise(conn, caller, device, ms(wanted.since), wanted.reason, hub.clock())
        return _detail(conn, caller, hub, device)


@router.post("/devices/{device}/admissions", responses=DONE)
def admit_from_device(
    caller: Trusting, hub: Hub, device: UUID, wanted: Admission
) -> DeviceDetailOut:
    """Let count what came in from it within a time; 409 where nothing waits there."""
    with doing(hub) as conn:
        find_device(conn, caller.organisation_id, device)
        since_ms, until_ms = ms(wanted.since), ms(wanted.until)
        leaving.admit(conn, caller, device, since_ms, until_ms, wanted.reason, hub.clock())
        return _detail(conn, caller, hub, device)


@router.post("/devices/{device}/settlement", responses=DONE)
def settle_device(caller: Changing, hub: Hub, device: UUID, wanted: Settlement) -> DeviceDetailOut:
    """Its record had forked, and somebody has looked into it; all taps count, as before."""
    with doing(hub) as conn:
        find_device(conn, caller.organisation_id, device)
        leaving.settle(conn, caller, device, wanted.other, wanted.reason, hub.clock())
        return _detail(conn, caller, hub, device)


@router.put("/devices/{device}/name", responses=DONE)
def rename_device(caller: Changing, hub: Hub, device: UUID, wanted: Renaming) -> DeviceDetailOut:
    """Another name for the same device."""
    with doing(hub) as conn:
        find_device(conn, caller.organisation_id, device)
        leaving.rename(conn, caller, device, wanted.name, wanted.reason, hub.clock())
        return _detail(conn, caller, hub, device)


@router.post("/devices/{device}/renewal", responses=DONE, status_code=201)
def renew_device(caller: Changing, hub: Hub, device: UUID, wanted: Reasoned) -> CodeOut:
    """Another device of its name, to be enrolled; what it recorded stays with whom it was."""
    with doing(hub) as conn:
        find_device(conn, caller.organisation_id, device)
        fingerprint = _joining(hub).fingerprint
        added = leaving.renew(conn, caller, fingerprint, device, wanted.reason, hub.clock())
    return _code(added, hub)


# --- Venues ---------------------------------------------------------------------------------------


@router.get("/venues", tags=["venues"], responses=LISTED)
def list_venues(caller: Looking, hub: Hub, query: Annotated[Paged, Query()]) -> VenueList:
    """The venues of the sub-tree."""
    with reading(hub.engine) as conn:
        found = venue_service.venues(conn, caller.organisation_id, hub.clock())
    return VenueList(
        total=len(found),
        limit=query.limit,
        offset=query.offset,
        items=[_venue(each) for each in found[query.offset :][: query.limit]],
    )


@router.post("/venues", tags=["venues"], responses=DONE, status_code=201)
def add_venue(caller: Changing, hub: Hub, wanted: NewVenue) -> VenueOut:
    """Add a venue."""
    with doing(hub) as conn:
        made = venue_service.make_venue(
            conn, caller, wanted.code, wanted.name, wanted.organisation, hub.clock()
        )
        return _one_venue(conn, caller, hub, made)


@router.put("/venues/{venue}", tags=["venues"], responses=DONE)
def change_venue(caller: Changing, hub: Hub, venue: UUID, wanted: VenueChange) -> VenueOut:
    """Another name, or of another organisation of the sub-tree."""
    with doing(hub) as conn:
        venue_service.change_venue(
            conn, caller, venue, wanted.name, wanted.organisation, hub.clock()
        )
        return _one_venue(conn, caller, hub, venue)


# --- Helpers --------------------------------------------------------------------------------------


def _joining(hub: Context) -> Joining:
    if hub.joining is None:
        raise HTTPException(503, "this hub takes no enrolments")
    return hub.joining


def _state(each: fleet.Device, told: Told) -> DeviceStateOut:
    return DeviceStateOut(
        public_id=each.public_id,
        name=each.name,
        status=each.status,
        venue=None if each.venue is None else named(each.venue),
        placed_from=told.maybe(each.placed_ms),
        code_expires_at=told.maybe(each.code_expires_ms),
        last_contact=told.maybe(each.last_contact_ms),
        unreceipted=each.unreceipted,
        clock=None
        if each.clock is None
        else ClockOut(trusted=each.clock.is_trusted, offset_ms=each.clock.offset_ms),
        readers=[ReaderOut(name=reader.name, up=reader.is_up) for reader in each.readers],
        software=each.software,
        complete_through=told.maybe(each.through_ms),
        rehearsal=None
        if each.rehearsed is None
        else RehearsalOut(at=told.time(each.rehearsed.at_ms), taps=each.rehearsed.taps),
        leaving=_leaving(each.leaving, told),
        troubles=[str(words) for words in each.troubles],
    )


def _leaving(each: fleet.Leaving, told: Told) -> LeavingOut:
    waits = each.waiting
    return LeavingOut(
        retiring_since=told.maybe(each.retiring_ms),
        left_at=told.maybe(each.left_ms),
        gone=each.is_gone,
        compromised_since=told.maybe(each.compromised_ms),
        waiting=None
        if waits is None
        else WaitingOut(
            entries=waits.entries,
            first_received=told.time(waits.from_ms),
            last_received=told.time(waits.to_ms),
        ),
        forked=each.is_forked,
    )


def _detail(conn: Connection, caller: Caller, hub: Context, device: UUID) -> DeviceDetailOut:
    row = find_device(conn, caller.organisation_id, device)
    [found] = fleet.devices(conn, caller.organisation_id, hub.clock(), hub.zone, row.id)
    told = Told(hub.zone)
    return DeviceDetailOut(
        device=_state(found, told),
        placements=[
            PlacementOut(
                venue=each.venue,
                valid_from=told.time(each.from_ms),
                valid_to=told.maybe(each.to_ms),
            )
            for each in fleet.history(conn, caller.organisation_id, row.id)
        ],
    )


def _code(added: Added, hub: Context) -> CodeOut:
    return CodeOut(
        device=str(added.public_id),
        name=added.name,
        code=str(added.code),
        expires_at=Told(hub.zone).time(added.expires_ms),
    )


def _venue(each: venue_service.Venue) -> VenueOut:
    return VenueOut(
        public_id=each.public_id,
        code=each.code,
        name=each.name,
        organisation=named(each.organisation),
        devices=each.devices,
    )


def _one_venue(conn: Connection, caller: Caller, hub: Context, venue: UUID) -> VenueOut:
    found = venue_service.venues(conn, caller.organisation_id, hub.clock())
    return next(_venue(each) for each in found if each.public_id == str(venue))
