"""The hub's tables, portable over SQLite and PostgreSQL. No statements; no ORM.

Four kinds of table, and it matters which is which:

- **Facts** (`batches`, `entries`, `epochs`, `heartbeats`, …): what devices said. Added by ingest,
  never changed, except that a credential's value can be erased.
- **Registers** (`organisations`, `members`, `meetings`, …): what people told us, dated.
- **Declarations** (`declarations`): what people stated of a meeting; added, never changed.
- **Derived** (`readings`, `attendances`): computed from the others by `hub.derive`; may be dropped
  and rebuilt at any time.

Times are integer milliseconds since the Unix epoch in UTC (`*_ms`); a validity `[valid_from_ms,
valid_to_ms)` is half-open, NULL meaning "until further notice". Whatever leaves the hub is named by
`public_id` (random, 128 bit) or by its own code, never by the integer key.

That two validities don't overlap is kept by whoever writes them (`hub.imports`): no constraint says
it on both databases.
"""

import secrets
import uuid
from enum import StrEnum
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    false,
    text,
    true,
)

from hub.domain.terms import (
    Body,
    CardStatus,
    DeclarationKind,
    DeviceStatus,
    MeetingKind,
    Office,
    OrgKind,
    OtherHistory,
    Outcome,
    Role,
    Verdict,
)

SUBJECT_NONE: Final = 0
"""`entries.subject_state`: the entry has no subject."""
SUBJECT_OPENED: Final = 1
"""The subject was opened, and `credential_id` says whose it is."""
SUBJECT_WITHHELD: Final = 2
"""The edge sent the entry without its sealed subject (it was erased there)."""
SUBJECT_UNOPENED: Final = 3
"""The sealed subject could not be opened, or belongs to an entry that cannot be read here; it is
kept in `unopened_subjects`."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite fills in a key by itself only where the column's type is exactly INTEGER.
_Key = BigInteger().with_variant(Integer(), "sqlite")


def _key() -> Column[int]:
    return Column("id", _Key, primary_key=True, autoincrement=True)


def _ref(name: str, target: str, *, nullable: bool = False, index: bool = False) -> Column[int]:
    return Column(name, _Key, ForeignKey(target), nullable=nullable, index=index)


def _ms(name: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger(), nullable=nullable)


def _one_of(column: str, terms: type[StrEnum]) -> CheckConstraint:
    values = ", ".join(f"'{term.value}'" for term in terms)
    return CheckConstraint(f"{column} IN ({values})", name=column)


def _validity() -> tuple[Column[int], Column[int], CheckConstraint]:
    return (
        _ms("valid_from_ms"),
        _ms("valid_to_ms", nullable=True),
        CheckConstraint("valid_to_ms > valid_from_ms", name="validity"),
    )


# --- The hub itself -------------------------------------------------------------------------

hub_state = Table(
    "hub_state",
    metadata,
    Column("id", SmallInteger(), primary_key=True, autoincrement=False),
    # Unix seconds at which this hub, or this restored copy of it, began; only ever grows.
    Column("generation", BigInteger(), nullable=False),
    # Counts the starts of `serve`; a stale MQTT will is seen through by it.
    Column("session", BigInteger(), nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)

policies = Table(
    "policies",
    metadata,
    _key(),
    Column("name", Text(), nullable=False),
    # NULL: everywhere. Otherwise for this organisation and all below it.
    _ref("organisation_id", "organisations.id", nullable=True),
    Column("value", Text(), nullable=False),
    _ms("valid_from_ms"),
    Column("source", Text(), nullable=False),
    UniqueConstraint("name", "organisation_id", "valid_from_ms"),
)

# --- Registers ------------------------------------------------------------------------------

organisations = Table(
    "organisations",
    metadata,
    _key(),
    Column("public_id", Uuid(), nullable=False, unique=True),
    Column("code", Text(), nullable=False, unique=True),
    Column("name", Text(), nullable=False),
    Column("kind", Text(), nullable=False),
    _ref("parent_id", "organisations.id", nullable=True, index=True),
    _one_of("kind", OrgKind),
    CheckConstraint("parent_id <> id", name="not_its_own_parent"),
)

members = Table(
    "members",
    metadata,
    _key(),
    Column("public_id", Uuid(), nullable=False, unique=True),
    Column("code", Text(), nullable=False, unique=True),
    Column("name", Text(), nullable=False),
)

memberships = Table(
    "memberships",
    metadata,
    _key(),
    _ref("member_id", "members.id", index=True),
    _ref("organisation_id", "organisations.id", index=True),
    Column("body", Text(), nullable=False),
    # 表决权: whether the member may vote there; dated with the row, and without a reason.
    Column("votes", Boolean(), nullable=False, server_default=true()),
    *_validity(),
    _one_of("body", Body),
)

offices = Table(
    "offices",
    metadata,
    _key(),
    _ref("member_id", "members.id", index=True),
    _ref("organisation_id", "organisations.id", index=True),
    Column("office", Text(), nullable=False),
    *_validity(),
    _one_of("office", Office),
)

cards = Table(
    "cards",
    metadata,
    _key(),
    Column("public_id", Uuid(), nullable=False, unique=True),
    Column("code", Text(), nullable=False, unique=True),
    Column("status", Text(), nullable=False),
    _one_of("status", CardStatus),
)

credentials = Table(
    "credentials",
    metadata,
    _key(),
    Column("scheme", Text(), nullable=False),
    Column("issuer", Text(), nullable=False),
    # NULL once erased: the facts keep the id and lose the person.
    Column("value", Text(), nullable=True),
    _ref("card_id", "cards.id", nullable=True, index=True),
    # When a tap first brought it, NULL for one that only an import has named.
    _ms("first_seen_ms", nullable=True),
    UniqueConstraint("scheme", "issuer", "value"),
)

bindings = Table(
    "bindings",
    metadata,
    _key(),
    _ref("card_id", "cards.id", index=True),
    _ref("member_id", "members.id", index=True),
    *_validity(),
)

venues = Table(
    "venues",
    metadata,
    _key(),
    Column("public_id", Uuid(), nullable=False, unique=True),
    Column("code", Text(), nullable=False, unique=True),
    Column("name", Text(), nullable=False),
    _ref("organisation_id", "organisations.id", index=True),
)

devices = Table(
    "devices",
    metadata,
    _key(),
    # The edge id on the wire: its sixteen bytes.
    Column("public_id", Uuid(), nullable=False, unique=True),
    Column("name", Text(), nullable=False, unique=True),
    Column("status", Text(), nullable=False),
    Column("sign_key", LargeBinary(), nullable=True),
    Column("seal_key", LargeBinary(), nullable=True),
    _ms("enrolled_at_ms", nullable=True),
    # When it was told to retire; it is ACTIVE until it has handed over what it holds.
    _ms("retiring_ms", nullable=True),
    # From when on it records nothing for this hub.
    _ms("left_ms", nullable=True),
    # The last entry of all, by its own last word; NULL where it has not said it.
    Column("closing_epoch", LargeBinary(), nullable=True),
    Column("closing_seq", BigInteger(), nullable=True),
    # What came in from it since then is not believed, unless somebody has admitted it.
    _ms("compromised_ms", nullable=True),
    _one_of("status", DeviceStatus),
    CheckConstraint("status <> 'RETIRED' OR left_ms IS NOT NULL", name="retired"),
    CheckConstraint("status <> 'COMPROMISED' OR compromised_ms IS NOT NULL", name="compromised"),
    CheckConstraint("(closing_epoch IS NULL) = (closing_seq IS NULL)", name="closing"),
    CheckConstraint("status <> 'ACTIVE' OR sign_key IS NOT NULL", name="active_has_key"),
    CheckConstraint("length(sign_key) = 32", name="sign_key"),
    CheckConstraint("length(seal_key) = 32", name="seal_key"),
)

enrolment_codes = Table(
    "enrolment_codes",
    metadata,
    _key(),
    _ref("device_id", "devices.id", index=True),
    Column("secret_sha256", LargeBinary(), nullable=False, unique=True),
    _ms("created_ms"),
    _ms("expires_ms"),
    _ms("used_at_ms", nullable=True),
    Column("used_sign_key", LargeBinary(), nullable=True),
    CheckConstraint("length(secret_sha256) = 32", name="secret_sha256"),
    CheckConstraint("(used_at_ms IS NULL) = (used_sign_key IS NULL)", name="used"),
)

# For the broker, and apart from the keys that sign: one counts while its device is active under the
# signing key that asked for it.
certificates = Table(
    "certificates",
    metadata,
    _key(),
    _ref("device_id", "devices.id", index=True),
    # In lower-case hex.
    Column("serial", Text(), nullable=False, unique=True),
    Column("sign_key", LargeBinary(), nullable=False),
    # The request's: no request is answered twice.
    Column("nonce", LargeBinary(), nullable=False),
    _ms("issued_ms"),
    _ms("expires_ms"),
    UniqueConstraint("device_id", "nonce"),
)

# What a person answers for of a device that is not believed any more: all that came in from
# `from_ms` until before `to_ms`, by the hub's clock.
admissions = Table(
    "admissions",
    metadata,
    _key(),
    _ref("device_id", "devices.id", index=True),
    _ms("from_ms"),
    _ms("to_ms"),
    Column("reason", Text(), nullable=False),
    # The author's name as it was then; the audit says more.
    Column("author", Text(), nullable=False),
    _ms("made_ms"),
    CheckConstraint("from_ms < to_ms", name="span"),
)

# A fork of a device's record that a person has looked into: what was known of the device then has
# one history, as far as anybody can say, which goes on after `epoch`.
settlements = Table(
    "settlements",
    metadata,
    _key(),
    _ref("device_id", "devices.id", index=True),
    Column("other", Text(), nullable=False),
    _ref("last_epoch_id", "epochs.id"),
    Column("epoch", LargeBinary(), nullable=False),
    Column("reason", Text(), nullable=False),
    Column("author", Text(), nullable=False),
    _ms("made_ms"),
    _one_of("other", OtherHistory),
    CheckConstraint("length(epoch) = 16", name="epoch"),
)

placements = Table(
    "placements",
    metadata,
    _key(),
    _ref("device_id", "devices.id", index=True),
    _ref("venue_id", "venues.id", index=True),
    *_validity(),
)

meetings = Table(
    "meetings",
    metadata,
    _key(),
    Column("public_id", Uuid(), nullable=False, unique=True),
    Column("code", Text(), nullable=False, unique=True),
    _ref("organisation_id", "organisations.id"),
    Column("kind", Text(), nullable=False),
    Column("title", Text(), nullable=False),
    _ref("venue_id", "venues.id"),
    _ms("starts_ms"),
    _ms("ends_ms"),
    # The start of the check-in window, which ends with the meeting: resolved from the policy.
    _ms("opens_ms"),
    Column("grace_minutes", Integer(), nullable=False),
    Column("cancelled", Boolean(), nullable=False, server_default=false()),
    # The presiding 主持人, as written; who spoke or organised comes with the meeting file.
    Column("chair", Text(), nullable=False, server_default=""),
    # Grows by one whenever the meeting or its derived attendance changes; live pages follow it.
    Column("change", BigInteger(), nullable=False, server_default=text("0")),
    _one_of("kind", MeetingKind),
    CheckConstraint("opens_ms <= starts_ms AND starts_ms < ends_ms", name="times"),
    CheckConstraint("grace_minutes >= 0", name="grace_minutes"),
    Index(None, "venue_id", "opens_ms"),
    Index(None, "organisation_id", "starts_ms"),
)

# Every organisation that took part at some time, the meeting's own included: a joint meeting has
# several. Who takes part now is `hub.store.scope.taking_part`. Never deleted: who was shown what
# depends on who took part then, so an organisation that comes again has another row.
meeting_organisations = Table(
    "meeting_organisations",
    metadata,
    _key(),
    _ref("meeting_id", "meetings.id", index=True),
    _ref("organisation_id", "organisations.id", index=True),
    # NULL: it was asked to and has not agreed yet.
    _ms("agreed_ms", nullable=True),
    # When it was taken out, or said no; NULL: it still takes part, or is still asked to.
    _ms("left_ms", nullable=True),
    Index(
        "uq_meeting_organisations_now",
        "meeting_id",
        "organisation_id",
        unique=True,
        sqlite_where=text("left_ms IS NULL"),
        postgresql_where=text("left_ms IS NULL"),
    ),
)

# --- Declarations ---------------------------------------------------------------------------

declarations = Table(
    "declarations",
    metadata,
    _key(),
    Column("public_id", Uuid(), nullable=False, unique=True),
    _ref("meeting_id", "meetings.id", index=True),
    # Of whom it speaks; NULL: of the meeting.
    _ref("member_id", "members.id", nullable=True, index=True),
    Column("kind", Text(), nullable=False),
    # The declaration that this one answers or withdraws.
    _ref("about_id", "declarations.id", nullable=True, index=True),
    # The entry that a TAP_ASSIGNED speaks of; of a WITHDRAWN, the act that it takes back.
    Column("epoch_id", _Key, nullable=True),
    Column("seq", BigInteger(), nullable=True),
    # A head-count.
    Column("number", Integer(), nullable=True),
    # A LeaveReason, or words.
    Column("reason", Text(), nullable=True),
    # The author's name as it was then, and who that is; both ids NULL: the hub's own machine.
    Column("author", Text(), nullable=False),
    _ref("account_id", "accounts.id", nullable=True),
    _ref("token_id", "tokens.id", nullable=True),
    _ms("made_ms"),
    _one_of("kind", DeclarationKind),
    CheckConstraint("(epoch_id IS NULL) = (seq IS NULL)", name="entry"),
    CheckConstraint("number >= 0", name="number"),
    Index(
        "ix_declarations_entry",
        "epoch_id",
        "seq",
        sqlite_where=text("epoch_id IS NOT NULL"),
        postgresql_where=text("epoch_id IS NOT NULL"),
    ),
)

# --- Facts ----------------------------------------------------------------------------------

epochs = Table(
    "epochs",
    metadata,
    _key(),
    _ref("device_id", "devices.id"),
    Column("epoch", LargeBinary(), nullable=False),
    Column("boot_id", LargeBinary(), nullable=False),
    # The header's exact bytes. The content key that it wraps is never stored in clear.
    Column("header", LargeBinary(), nullable=False),
    Column("parent_epoch", LargeBinary(), nullable=True),
    Column("parent_seq", BigInteger(), nullable=True),
    Column("parent_digest", LargeBinary(), nullable=True),
    _ms("opened_boottime_ms"),
    _ms("opened_wall_ms"),
    Column("opened_trusted", Boolean(), nullable=False),
    Column("software", Text(), nullable=False),
    # The contiguous mark: every entry up to and including `through` is held.
    Column("through", BigInteger(), nullable=False, server_default=text("0")),
    # NULL while nothing is held.
    Column("through_digest", LargeBinary(), nullable=True),
    # 演练: as the header says. Its batches are kept and nothing is made of them: no entry, no
    # credential and no heartbeat of it stands in any table, so nothing can ever count.
    Column("rehearsal", Boolean(), nullable=False, server_default=false()),
    # How many taps of a rehearsal have come.
    Column("rehearsed", BigInteger(), nullable=False, server_default=text("0")),
    UniqueConstraint("device_id", "epoch"),
    Index(None, "device_id", "boot_id"),
    Index(None, "device_id", "parent_epoch"),
    CheckConstraint("length(epoch) = 16", name="epoch"),
    CheckConstraint("length(boot_id) = 16", name="boot_id"),
    CheckConstraint(
        "(parent_epoch IS NULL) = (parent_seq IS NULL)"
        " AND (parent_epoch IS NULL) = (parent_digest IS NULL)",
        name="parent",
    ),
    CheckConstraint("through >= 0", name="through"),
)

islands = Table(
    "islands",
    metadata,
    _ref("epoch_id", "epochs.id"),
    Column("first", BigInteger(), nullable=False),
    Column("last", BigInteger(), nullable=False),
    # The digests before `first` and at `last`: what the neighbours must fit to.
    Column("previous_digest", LargeBinary(), nullable=False),
    Column("last_digest", LargeBinary(), nullable=False),
    PrimaryKeyConstraint("epoch_id", "first"),
    CheckConstraint("first <= last", name="range"),
)

batches = Table(
    "batches",
    metadata,
    _key(),
    _ref("epoch_id", "epochs.id"),
    Column("first", BigInteger(), nullable=False),
    Column("last", BigInteger(), nullable=False),
    # The signed bytes exactly as they came.
    Column("signed", LargeBinary(), nullable=False),
    _ms("received_ms"),
    Column("transport", Text(), nullable=False),
    # False until `hub.derive` has taken it; set in the transaction of its effects.
    Column("derived", Boolean(), nullable=False, server_default=false()),
    # Of a compromised device, come in since then, and admitted by nobody: it counts for nothing.
    Column("held", Boolean(), nullable=False, server_default=false()),
    CheckConstraint("transport IN ('mqtt', 'usb')", name="transport"),
    Index(None, "epoch_id", "first"),
    Index(
        "ix_batches_underived",
        "id",
        sqlite_where=text("NOT derived"),
        postgresql_where=text("NOT derived"),
    ),
)

# Ingest writes here at speed. It has just read or made the rows that `epoch_id`, `credential_id`
# and `batch_id` name, and none of those is ever deleted: foreign keys would look each up again.
entries = Table(
    "entries",
    metadata,
    Column("epoch_id", _Key, nullable=False),
    Column("seq", BigInteger(), nullable=False),
    # The entry type's number on the wire.
    Column("kind", SmallInteger(), nullable=False),
    # NULL, like `wall_ms` and `trusted`, only where `problem` says that it could not be read.
    _ms("boottime_ms", nullable=True),
    _ms("wall_ms", nullable=True),
    Column("trusted", Boolean(), nullable=True),
    Column("reader", Text(), nullable=True),
    Column("assurance", SmallInteger(), nullable=True),
    Column("credential_id", _Key, nullable=True, index=True),
    # SUBJECT_NONE, SUBJECT_OPENED, SUBJECT_WITHHELD or SUBJECT_UNOPENED.
    Column("subject_state", SmallInteger(), nullable=False),
    # The exact bytes of everything but a well-formed tap.
    Column("body", LargeBinary(), nullable=True),
    # Why it could not be decoded.
    Column("problem", Text(), nullable=True),
    # No index: a batch's entries are found by its epoch and range of seqs.
    Column("batch_id", _Key, nullable=False),
    PrimaryKeyConstraint("epoch_id", "seq"),
    # Few in number: those whose time has to be corrected when a trusted one is known.
    Index(
        "ix_entries_untrusted",
        "epoch_id",
        "boottime_ms",
        sqlite_where=text("NOT trusted"),
        postgresql_where=text("NOT trusted"),
    ),
    Index(
        "ix_entries_problem",
        "epoch_id",
        "seq",
        sqlite_where=text("problem IS NOT NULL"),
        postgresql_where=text("problem IS NOT NULL"),
    ),
    CheckConstraint("subject_state BETWEEN 0 AND 3", name="subject_state"),
    CheckConstraint("(subject_state = 1) = (credential_id IS NOT NULL)", name="subject"),
    sqlite_with_rowid=False,
)

# What somebody with an authorising card did at a reader. The entry itself, with its time and the
# authorising credential, is in `entries`.
actions = Table(
    "actions",
    metadata,
    Column("epoch_id", _Key, nullable=False),
    Column("seq", BigInteger(), nullable=False),
    # The number of `protocol.journal.Act`.
    Column("what", SmallInteger(), nullable=False),
    Column("number", BigInteger(), nullable=True),
    # Whom it speaks of; the state as `entries.subject_state`.
    Column("about_credential_id", _Key, nullable=True, index=True),
    Column("about_state", SmallInteger(), nullable=False),
    PrimaryKeyConstraint("epoch_id", "seq"),
    CheckConstraint("about_state BETWEEN 0 AND 3", name="about_state"),
    CheckConstraint("(about_state = 1) = (about_credential_id IS NOT NULL)", name="about"),
    sqlite_with_rowid=False,
)

# Stated holes: entries that the device can't read any more. The contiguous mark passes them.
gaps = Table(
    "gaps",
    metadata,
    _ref("epoch_id", "epochs.id"),
    Column("first", BigInteger(), nullable=False),
    Column("last", BigInteger(), nullable=False),
    # The chain's digest after `last`, as the device states it.
    Column("digest", LargeBinary(), nullable=False),
    Column("reason", Text(), nullable=False),
    _ref("batch_id", "batches.id"),
    PrimaryKeyConstraint("epoch_id", "first"),
    CheckConstraint("first <= last", name="range"),
)

unopened_subjects = Table(
    "unopened_subjects",
    metadata,
    _ref("epoch_id", "epochs.id"),
    Column("seq", BigInteger(), nullable=False),
    # SHA-256 of `sealed`, as the entry states it: an entry may have several subjects.
    Column("digest", LargeBinary(), nullable=False),
    Column("sealed", LargeBinary(), nullable=False),
    PrimaryKeyConstraint("epoch_id", "seq", "digest"),
)

heartbeats = Table(
    "heartbeats",
    metadata,
    _key(),
    _ref("device_id", "devices.id"),
    # The epoch as the device names it; the hub had its header by then, but maybe no entry.
    Column("epoch", LargeBinary(), nullable=False),
    Column("head_seq", BigInteger(), nullable=False),
    Column("head_digest", LargeBinary(), nullable=False),
    _ms("boottime_ms"),
    _ms("wall_ms"),
    Column("trusted", Boolean(), nullable=False),
    Column("released_through", BigInteger(), nullable=False),
    Column("first_held", BigInteger(), nullable=False),
    # Entries of all its epochs that have no receipt yet; NULL: not said.
    Column("unreceipted", BigInteger(), nullable=True),
    # JSON: the readers and their states, as the device said them.
    Column("readers", Text(), nullable=False),
    Column("signed", LargeBinary(), nullable=False),
    _ms("received_ms"),
    # The device is retired, and this is its last word.
    Column("closing", Boolean(), nullable=False, server_default=false()),
    # False until `hub.derive` has looked whether its clock dates anything.
    Column("derived", Boolean(), nullable=False, server_default=false()),
    # As `batches.held`.
    Column("held", Boolean(), nullable=False, server_default=false()),
    UniqueConstraint("device_id", "epoch", "boottime_ms", "head_seq"),
    Index(None, "device_id", "received_ms"),
    Index(None, "device_id", "epoch", "head_seq"),
    Index(
        "ix_heartbeats_underived",
        "id",
        sqlite_where=text("NOT derived"),
        postgresql_where=text("NOT derived"),
    ),
    CheckConstraint("length(epoch) = 16", name="epoch"),
)

# Verified batches of devices that have left the fleet: byte for byte, without a receipt, and
# counted by nobody until somebody admits them. They then become facts, and the row goes.
held_messages = Table(
    "held_messages",
    metadata,
    _key(),
    _ref("device_id", "devices.id"),
    Column("topic", Text(), nullable=False),
    Column("payload", LargeBinary(), nullable=False),
    Column("sha256", LargeBinary(), nullable=False),
    Column("transport", Text(), nullable=False),
    _ms("received_ms"),
    # How many entries it brings.
    Column("entries", BigInteger(), nullable=False),
    # Why it became no fact when it was admitted.
    Column("problem", Text(), nullable=True),
    UniqueConstraint("device_id", "sha256"),
    Index(None, "device_id", "received_ms"),
    CheckConstraint("transport IN ('mqtt', 'usb')", name="transport"),
)

rejections = Table(
    "rejections",
    metadata,
    _key(),
    Column("reason", Text(), nullable=False),
    Column("topic", Text(), nullable=False),
    Column("size", BigInteger(), nullable=False),
    # The first bytes of it, at most 256.
    Column("sample", LargeBinary(), nullable=False),
    # The edge that it claimed to come from: nobody vouches for that.
    Column("edge", Text(), nullable=True),
    _ms("at_ms"),
    CheckConstraint("length(sample) <= 256", name="sample"),
)

rejection_counts = Table(
    "rejection_counts",
    metadata,
    Column("reason", Text(), primary_key=True),
    Column("count", BigInteger(), nullable=False),
    _ms("last_ms"),
)

# --- Access ---------------------------------------------------------------------------------

# An account is one role in one organisation and all below it. Whoever has a member's id sees that
# member's own page besides.
accounts = Table(
    "accounts",
    metadata,
    _key(),
    Column("public_id", Uuid(), nullable=False, unique=True),
    # What is typed to sign in, casefolded.
    Column("login", Text(), nullable=False, unique=True),
    Column("name", Text(), nullable=False),
    Column("role", Text(), nullable=False),
    _ref("organisation_id", "organisations.id", index=True),
    _ref("member_id", "members.id", nullable=True, index=True),
    # Argon2id, in its own format (RFC 9106).
    Column("password", Text(), nullable=False),
    # The password was given by somebody else and must be replaced at the first sign-in.
    Column("must_change", Boolean(), nullable=False),
    # Wrong passwords since the last right one, the last of them, and until when none is looked at.
    Column("failures", Integer(), nullable=False, server_default=text("0")),
    _ms("failed_ms", nullable=True),
    _ms("locked_until_ms", nullable=True),
    # Whoever gave it its first password last; NULL: the hub's own machine.
    _ref("made_by_account_id", "accounts.id", nullable=True),
    _ms("created_ms"),
    _ms("disabled_ms", nullable=True),
    _one_of("role", Role),
    CheckConstraint("role <> 'MEMBER' OR member_id IS NOT NULL", name="member"),
)

tokens = Table(
    "tokens",
    metadata,
    _key(),
    Column("public_id", Uuid(), nullable=False, unique=True),
    Column("name", Text(), nullable=False, unique=True),
    Column("token_sha256", LargeBinary(), nullable=False, unique=True),
    Column("role", Text(), nullable=False),
    # The sub-tree that it may see.
    _ref("organisation_id", "organisations.id"),
    _ref("member_id", "members.id", nullable=True),
    # Whose it is: that account's, or of the account whose token made it; NULL: the hub's machine.
    _ref("made_by_account_id", "accounts.id", nullable=True),
    _ms("created_ms"),
    _ms("expires_ms", nullable=True),
    _ms("revoked_ms", nullable=True),
    _one_of("role", Role),
    CheckConstraint("role <> 'MEMBER' OR member_id IS NOT NULL", name="member"),
    CheckConstraint("length(token_sha256) = 32", name="token_sha256"),
)

sessions = Table(
    "sessions",
    metadata,
    _key(),
    Column("public_id", Uuid(), nullable=False, unique=True),
    Column("session_sha256", LargeBinary(), nullable=False, unique=True),
    _ref("account_id", "accounts.id", index=True),
    # What the browser calls itself, cut short: so that its owner knows it again.
    Column("browser", Text(), nullable=False),
    _ms("created_ms"),
    _ms("expires_ms"),
    CheckConstraint("length(session_sha256) = 32", name="session_sha256"),
)

# What desk stations (发卡台) read: each a card that is about to be somebody's. Rows go when they
# have expired; the number goes when it has been used, and what is left then can undo that.
desk_readings = Table(
    "desk_readings",
    metadata,
    _key(),
    Column("public_id", Uuid(), nullable=False, unique=True),
    # The station.
    _ref("token_id", "tokens.id", index=True),
    _ms("at_ms"),
    _ms("expires_ms"),
    Column("scheme", Text(), nullable=False),
    Column("issuer", Text(), nullable=False),
    Column("value", Text(), nullable=True),
    # Its last characters, which may be told.
    Column("last", Text(), nullable=False),
    # What it became, and whose; NULL before that, and when it was undone.
    _ref("card_id", "cards.id", nullable=True),
    _ref("member_id", "members.id", nullable=True),
    # JSON: how the cards concerned stood before and after.
    Column("undo", Text(), nullable=True),
    Index(None, "expires_ms"),
    CheckConstraint(
        "(undo IS NULL) = (card_id IS NULL) AND (undo IS NULL) = (member_id IS NULL)", name="used"
    ),
    CheckConstraint("value IS NULL OR undo IS NULL", name="value"),
)

# What was done, by whom. Append-only: triggers refuse UPDATE and DELETE.
audit = Table(
    "audit",
    metadata,
    _key(),
    _ms("at_ms"),
    # The name as it was then; both ids NULL: the hub's own machine.
    Column("actor", Text(), nullable=False),
    _ref("account_id", "accounts.id", nullable=True),
    _ref("token_id", "tokens.id", nullable=True),
    # A dotted verb such as meeting.create.
    Column("what", Text(), nullable=False),
    # Where it belongs: who may see that sub-tree's audit sees it. NULL: the hub as a whole.
    _ref("organisation_id", "organisations.id", nullable=True, index=True),
    Column("object", Text(), nullable=False),
    Column("object_id", Uuid(), nullable=True, index=True),
    # JSON; nothing secret.
    Column("details", Text(), nullable=False),
)

# Who looked at personal data. Append-only like `audit`.
accesses = Table(
    "accesses",
    metadata,
    _key(),
    _ms("at_ms"),
    Column("actor", Text(), nullable=False),
    _ref("account_id", "accounts.id", nullable=True),
    _ref("token_id", "tokens.id", nullable=True),
    # The organisation whose sub-tree the looker saw then. NULL: the hub's own machine, everything.
    _ref("scope_id", "organisations.id", nullable=True),
    # A dotted noun such as meeting.page or member.export.
    Column("what", Text(), nullable=False),
    # What was shown: a meeting with everybody there, a member, or a sub-tree in a period.
    _ref("meeting_id", "meetings.id", nullable=True, index=True),
    _ref("member_id", "members.id", nullable=True, index=True),
    _ref("organisation_id", "organisations.id", nullable=True, index=True),
    _ms("from_ms", nullable=True),
    _ms("to_ms", nullable=True),
)

# --- Derived: may be emptied and rebuilt ----------------------------------------------------

# No foreign keys: these rows are computed from rows that exist, and are replaced in bulk.
readings = Table(
    "readings",
    metadata,
    Column("epoch_id", _Key, nullable=False),
    Column("seq", BigInteger(), nullable=False),
    # The corrected time, NULL where only an interval is known.
    _ms("at_ms", nullable=True),
    # The interval; NULL at either end: unbounded.
    _ms("earliest_ms", nullable=True),
    _ms("latest_ms", nullable=True),
    Column("venue_id", _Key, nullable=True),
    Column("member_id", _Key, nullable=True),
    Column("outcome", Text(), nullable=False),
    PrimaryKeyConstraint("epoch_id", "seq"),
    _one_of("outcome", Outcome),
    Index(None, "venue_id", "at_ms"),
    Index(None, "member_id", "at_ms"),
    # Few in number: what waits for a person.
    Index(
        "ix_readings_waiting",
        "venue_id",
        "at_ms",
        sqlite_where=text("outcome IN ('UNMATCHED', 'UNPLACED')"),
        postgresql_where=text("outcome IN ('UNMATCHED', 'UNPLACED')"),
    ),
    Index(
        "ix_readings_undated",
        "epoch_id",
        sqlite_where=text("at_ms IS NULL"),
        postgresql_where=text("at_ms IS NULL"),
    ),
    sqlite_with_rowid=False,
)

# One row for each member of whom a meeting knows something, by a tap or by a declaration.
attendances = Table(
    "attendances",
    metadata,
    Column("meeting_id", _Key, nullable=False),
    Column("member_id", _Key, nullable=False),
    Column("verdict", Text(), nullable=False),
    # When the member came, as far as that is known: of the earliest tap that counts.
    _ms("at_ms", nullable=True),
    # The entry that decides: a tap, or an action at the reader.
    Column("epoch_id", _Key, nullable=True),
    Column("seq", BigInteger(), nullable=True),
    # The declaration that decides.
    Column("declaration_id", _Key, nullable=True),
    # How many taps show the member there.
    Column("taps", Integer(), nullable=False),
    PrimaryKeyConstraint("meeting_id", "member_id"),
    _one_of("verdict", Verdict),
    CheckConstraint("(epoch_id IS NULL) = (seq IS NULL)", name="entry"),
    CheckConstraint("epoch_id IS NOT NULL OR declaration_id IS NOT NULL", name="evidence"),
    Index(None, "member_id", "at_ms"),
    sqlite_with_rowid=False,
)


def new_public_id() -> uuid.UUID:
    """A random 128-bit name for something that leaves the hub."""
    return uuid.UUID(bytes=secrets.token_bytes(16))
