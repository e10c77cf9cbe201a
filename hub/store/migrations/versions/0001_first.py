"""The first schema: registers, facts, access, derived tables, and the policies to begin with."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:  # noqa: PLR0915 - the whole schema
    op.create_table(
        "cards",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("public_id", sa.Uuid(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "status IN ('ACTIVE', 'LOST', 'WITHDRAWN')", name=op.f("ck_cards_status")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_cards"),
        sa.UniqueConstraint("code", name="uq_cards_code"),
        sa.UniqueConstraint("public_id", name="uq_cards_public_id"),
    )
    op.create_table(
        "check_ins",
        sa.Column("meeting_id", KEY, nullable=False),
        sa.Column("member_id", KEY, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("epoch_id", KEY, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("taps", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "verdict IN ('PRESENT', 'LATE', 'GUEST', 'NOT_SEEN', 'PENDING')",
            name=op.f("ck_check_ins_verdict"),
        ),
        sa.PrimaryKeyConstraint("meeting_id", "member_id", name="pk_check_ins"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_check_ins_member_id_at_ms", "check_ins", ["member_id", "at_ms"], unique=False
    )
    op.create_table(
        "devices",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("public_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("sign_key", sa.LargeBinary(), nullable=True),
        sa.Column("seal_key", sa.LargeBinary(), nullable=True),
        sa.Column("enrolled_at_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "status <> 'ACTIVE' OR sign_key IS NOT NULL", name=op.f("ck_devices_active_has_key")
        ),
        sa.CheckConstraint(
            "status IN ('PENDING', 'ACTIVE', 'RETIRED', 'COMPROMISED')",
            name=op.f("ck_devices_status"),
        ),
        sa.CheckConstraint("length(seal_key) = 32", name=op.f("ck_devices_seal_key")),
        sa.CheckConstraint("length(sign_key) = 32", name=op.f("ck_devices_sign_key")),
        sa.PrimaryKeyConstraint("id", name="pk_devices"),
        sa.UniqueConstraint("name", name="uq_devices_name"),
        sa.UniqueConstraint("public_id", name="uq_devices_public_id"),
    )
    op.create_table(
        "hub_state",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("session", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_hub_state_one_row")),
        sa.PrimaryKeyConstraint("id", name="pk_hub_state"),
    )
    op.create_table(
        "members",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("public_id", sa.Uuid(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_members"),
        sa.UniqueConstraint("code", name="uq_members_code"),
        sa.UniqueConstraint("public_id", name="uq_members_public_id"),
    )
    op.create_table(
        "organisations",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("public_id", sa.Uuid(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("parent_id", KEY, nullable=True),
        sa.CheckConstraint(
            "kind IN ('COMMITTEE', 'GENERAL_BRANCH', 'BRANCH', 'GROUP')",
            name=op.f("ck_organisations_kind"),
        ),
        sa.CheckConstraint("parent_id <> id", name=op.f("ck_organisations_not_its_own_parent")),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["organisations.id"], name="fk_organisations_parent_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_organisations"),
        sa.UniqueConstraint("code", name="uq_organisations_code"),
        sa.UniqueConstraint("public_id", name="uq_organisations_public_id"),
    )
    op.create_index("ix_organisations_parent_id", "organisations", ["parent_id"], unique=False)
    op.create_table(
        "readings",
        sa.Column("epoch_id", KEY, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=True),
        sa.Column("earliest_ms", sa.BigInteger(), nullable=True),
        sa.Column("latest_ms", sa.BigInteger(), nullable=True),
        sa.Column("venue_id", KEY, nullable=True),
        sa.Column("member_id", KEY, nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('COUNTED', 'GUEST', 'UNPLACED', 'UNMATCHED', 'UNDATED')",
            name=op.f("ck_readings_outcome"),
        ),
        sa.PrimaryKeyConstraint("epoch_id", "seq", name="pk_readings"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_readings_member_id_at_ms", "readings", ["member_id", "at_ms"], unique=False)
    op.create_index(
        "ix_readings_undated",
        "readings",
        ["epoch_id"],
        unique=False,
        sqlite_where=sa.text("at_ms IS NULL"),
        postgresql_where=sa.text("at_ms IS NULL"),
    )
    op.create_index("ix_readings_venue_id_at_ms", "readings", ["venue_id", "at_ms"], unique=False)
    op.create_table(
        "rejection_counts",
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("last_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("reason", name="pk_rejection_counts"),
    )
    op.create_table(
        "rejections",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sample", sa.LargeBinary(), nullable=False),
        sa.Column("edge", sa.Text(), nullable=True),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("length(sample) <= 256", name=op.f("ck_rejections_sample")),
        sa.PrimaryKeyConstraint("id", name="pk_rejections"),
    )
    op.create_table(
        "bindings",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("card_id", KEY, nullable=False),
        sa.Column("member_id", KEY, nullable=False),
        sa.Column("valid_from_ms", sa.BigInteger(), nullable=False),
        sa.Column("valid_to_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("valid_to_ms > valid_from_ms", name=op.f("ck_bindings_validity")),
        sa.ForeignKeyConstraint(["card_id"], ["cards.id"], name="fk_bindings_card_id"),
        sa.ForeignKeyConstraint(["member_id"], ["members.id"], name="fk_bindings_member_id"),
        sa.PrimaryKeyConstraint("id", name="pk_bindings"),
    )
    op.create_index("ix_bindings_card_id", "bindings", ["card_id"], unique=False)
    op.create_index("ix_bindings_member_id", "bindings", ["member_id"], unique=False)
    op.create_table(
        "credentials",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("scheme", sa.Text(), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=True),
        sa.Column("card_id", KEY, nullable=True),
        sa.Column("first_seen_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["card_id"], ["cards.id"], name="fk_credentials_card_id"),
        sa.PrimaryKeyConstraint("id", name="pk_credentials"),
        sa.UniqueConstraint("scheme", "issuer", "value", name="uq_credentials_scheme_issuer_value"),
    )
    op.create_index("ix_credentials_card_id", "credentials", ["card_id"], unique=False)
    op.create_table(
        "enrolment_codes",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("device_id", KEY, nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("used_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("used_sign_key", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint(
            "(used_at_ms IS NULL) = (used_sign_key IS NULL)", name=op.f("ck_enrolment_codes_used")
        ),
        sa.CheckConstraint(
            "length(secret_sha256) = 32", name=op.f("ck_enrolment_codes_secret_sha256")
        ),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name="fk_enrolment_codes_device_id"),
        sa.PrimaryKeyConstraint("id", name="pk_enrolment_codes"),
        sa.UniqueConstraint("secret_sha256", name="uq_enrolment_codes_secret_sha256"),
    )
    op.create_index("ix_enrolment_codes_device_id", "enrolment_codes", ["device_id"], unique=False)
    op.create_table(
        "epochs",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("device_id", KEY, nullable=False),
        sa.Column("epoch", sa.LargeBinary(), nullable=False),
        sa.Column("boot_id", sa.LargeBinary(), nullable=False),
        sa.Column("header", sa.LargeBinary(), nullable=False),
        sa.Column("parent_epoch", sa.LargeBinary(), nullable=True),
        sa.Column("parent_seq", sa.BigInteger(), nullable=True),
        sa.Column("parent_digest", sa.LargeBinary(), nullable=True),
        sa.Column("opened_boottime_ms", sa.BigInteger(), nullable=False),
        sa.Column("opened_wall_ms", sa.BigInteger(), nullable=False),
        sa.Column("opened_trusted", sa.Boolean(), nullable=False),
        sa.Column("software", sa.Text(), nullable=False),
        sa.Column("through", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("through_digest", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint(
            "(parent_epoch IS NULL) = (parent_seq IS NULL)"
            " AND (parent_epoch IS NULL) = (parent_digest IS NULL)",
            name=op.f("ck_epochs_parent"),
        ),
        sa.CheckConstraint("length(boot_id) = 16", name=op.f("ck_epochs_boot_id")),
        sa.CheckConstraint("length(epoch) = 16", name=op.f("ck_epochs_epoch")),
        sa.CheckConstraint("through >= 0", name=op.f("ck_epochs_through")),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name="fk_epochs_device_id"),
        sa.PrimaryKeyConstraint("id", name="pk_epochs"),
        sa.UniqueConstraint("device_id", "epoch", name="uq_epochs_device_id_epoch"),
    )
    op.create_index("ix_epochs_device_id_boot_id", "epochs", ["device_id", "boot_id"], unique=False)
    op.create_index(
        "ix_epochs_device_id_parent_epoch", "epochs", ["device_id", "parent_epoch"], unique=False
    )
    op.create_table(
        "heartbeats",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("device_id", KEY, nullable=False),
        sa.Column("epoch", sa.LargeBinary(), nullable=False),
        sa.Column("head_seq", sa.BigInteger(), nullable=False),
        sa.Column("head_digest", sa.LargeBinary(), nullable=False),
        sa.Column("boottime_ms", sa.BigInteger(), nullable=False),
        sa.Column("wall_ms", sa.BigInteger(), nullable=False),
        sa.Column("trusted", sa.Boolean(), nullable=False),
        sa.Column("released_through", sa.BigInteger(), nullable=False),
        sa.Column("first_held", sa.BigInteger(), nullable=False),
        sa.Column("unreceipted", sa.BigInteger(), nullable=True),
        sa.Column("readers", sa.Text(), nullable=False),
        sa.Column("signed", sa.LargeBinary(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("derived", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.CheckConstraint("length(epoch) = 16", name=op.f("ck_heartbeats_epoch")),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name="fk_heartbeats_device_id"),
        sa.PrimaryKeyConstraint("id", name="pk_heartbeats"),
        sa.UniqueConstraint(
            "device_id",
            "epoch",
            "boottime_ms",
            "head_seq",
            name="uq_heartbeats_device_id_epoch_boottime_ms_head_seq",
        ),
    )
    op.create_index(
        "ix_heartbeats_device_id_received_ms",
        "heartbeats",
        ["device_id", "received_ms"],
        unique=False,
    )
    op.create_index(
        "ix_heartbeats_device_id_epoch_head_seq",
        "heartbeats",
        ["device_id", "epoch", "head_seq"],
        unique=False,
    )
    op.create_index(
        "ix_heartbeats_underived",
        "heartbeats",
        ["id"],
        unique=False,
        sqlite_where=sa.text("NOT derived"),
        postgresql_where=sa.text("NOT derived"),
    )
    op.create_table(
        "memberships",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("member_id", KEY, nullable=False),
        sa.Column("organisation_id", KEY, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("valid_from_ms", sa.BigInteger(), nullable=False),
        sa.Column("valid_to_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("body IN ('MEMBER', 'COMMITTEE')", name=op.f("ck_memberships_body")),
        sa.CheckConstraint("valid_to_ms > valid_from_ms", name=op.f("ck_memberships_validity")),
        sa.ForeignKeyConstraint(["member_id"], ["members.id"], name="fk_memberships_member_id"),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name="fk_memberships_organisation_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_memberships"),
    )
    op.create_index("ix_memberships_member_id", "memberships", ["member_id"], unique=False)
    op.create_index(
        "ix_memberships_organisation_id", "memberships", ["organisation_id"], unique=False
    )
    op.create_table(
        "policies",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("organisation_id", KEY, nullable=True),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("valid_from_ms", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name="fk_policies_organisation_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_policies"),
        sa.UniqueConstraint(
            "name",
            "organisation_id",
            "valid_from_ms",
            name="uq_policies_name_organisation_id_valid_from_ms",
        ),
    )
    op.create_table(
        "tokens",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("organisation_id", KEY, nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("length(token_sha256) = 32", name=op.f("ck_tokens_token_sha256")),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name="fk_tokens_organisation_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("name", name="uq_tokens_name"),
        sa.UniqueConstraint("token_sha256", name="uq_tokens_token_sha256"),
    )
    op.create_table(
        "venues",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("public_id", sa.Uuid(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("organisation_id", KEY, nullable=False),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name="fk_venues_organisation_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_venues"),
        sa.UniqueConstraint("code", name="uq_venues_code"),
        sa.UniqueConstraint("public_id", name="uq_venues_public_id"),
    )
    op.create_index("ix_venues_organisation_id", "venues", ["organisation_id"], unique=False)
    op.create_table(
        "batches",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("epoch_id", KEY, nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("signed", sa.LargeBinary(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("transport", sa.Text(), nullable=False),
        sa.Column("derived", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.CheckConstraint("transport IN ('mqtt', 'usb')", name=op.f("ck_batches_transport")),
        sa.ForeignKeyConstraint(["epoch_id"], ["epochs.id"], name="fk_batches_epoch_id"),
        sa.PrimaryKeyConstraint("id", name="pk_batches"),
    )
    op.create_index("ix_batches_epoch_id_first", "batches", ["epoch_id", "first"], unique=False)
    op.create_index(
        "ix_batches_underived",
        "batches",
        ["id"],
        unique=False,
        sqlite_where=sa.text("NOT derived"),
        postgresql_where=sa.text("NOT derived"),
    )
    op.create_table(
        "islands",
        sa.Column("epoch_id", KEY, nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("previous_digest", sa.LargeBinary(), nullable=False),
        sa.Column("last_digest", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("first <= last", name=op.f("ck_islands_range")),
        sa.ForeignKeyConstraint(["epoch_id"], ["epochs.id"], name="fk_islands_epoch_id"),
        sa.PrimaryKeyConstraint("epoch_id", "first", name="pk_islands"),
    )
    op.create_table(
        "meetings",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("public_id", sa.Uuid(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("organisation_id", KEY, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("venue_id", KEY, nullable=False),
        sa.Column("starts_ms", sa.BigInteger(), nullable=False),
        sa.Column("ends_ms", sa.BigInteger(), nullable=False),
        sa.Column("opens_ms", sa.BigInteger(), nullable=False),
        sa.Column("grace_minutes", sa.Integer(), nullable=False),
        sa.Column("cancelled", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("change", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint(
            "kind IN ('BRANCH_ASSEMBLY', 'BRANCH_COMMITTEE', 'PARTY_GROUP',"
            " 'PARTY_LECTURE', 'THEME_PARTY_DAY')",
            name=op.f("ck_meetings_kind"),
        ),
        sa.CheckConstraint("grace_minutes >= 0", name=op.f("ck_meetings_grace_minutes")),
        sa.CheckConstraint(
            "opens_ms <= starts_ms AND starts_ms < ends_ms", name=op.f("ck_meetings_times")
        ),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name="fk_meetings_organisation_id"
        ),
        sa.ForeignKeyConstraint(["venue_id"], ["venues.id"], name="fk_meetings_venue_id"),
        sa.PrimaryKeyConstraint("id", name="pk_meetings"),
        sa.UniqueConstraint("code", name="uq_meetings_code"),
        sa.UniqueConstraint("public_id", name="uq_meetings_public_id"),
    )
    op.create_index(
        "ix_meetings_organisation_id_starts_ms",
        "meetings",
        ["organisation_id", "starts_ms"],
        unique=False,
    )
    op.create_index(
        "ix_meetings_venue_id_opens_ms", "meetings", ["venue_id", "opens_ms"], unique=False
    )
    op.create_table(
        "placements",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("device_id", KEY, nullable=False),
        sa.Column("venue_id", KEY, nullable=False),
        sa.Column("valid_from_ms", sa.BigInteger(), nullable=False),
        sa.Column("valid_to_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("valid_to_ms > valid_from_ms", name=op.f("ck_placements_validity")),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name="fk_placements_device_id"),
        sa.ForeignKeyConstraint(["venue_id"], ["venues.id"], name="fk_placements_venue_id"),
        sa.PrimaryKeyConstraint("id", name="pk_placements"),
    )
    op.create_index("ix_placements_device_id", "placements", ["device_id"], unique=False)
    op.create_index("ix_placements_venue_id", "placements", ["venue_id"], unique=False)
    op.create_table(
        "sessions",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("session_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("token_id", KEY, nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("length(session_sha256) = 32", name=op.f("ck_sessions_session_sha256")),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name="fk_sessions_token_id"),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        sa.UniqueConstraint("session_sha256", name="uq_sessions_session_sha256"),
    )
    op.create_index("ix_sessions_token_id", "sessions", ["token_id"], unique=False)
    op.create_table(
        "gaps",
        sa.Column("epoch_id", KEY, nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("batch_id", KEY, nullable=False),
        sa.CheckConstraint("first <= last", name=op.f("ck_gaps_range")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_gaps_batch_id"),
        sa.ForeignKeyConstraint(["epoch_id"], ["epochs.id"], name="fk_gaps_epoch_id"),
        sa.PrimaryKeyConstraint("epoch_id", "first", name="pk_gaps"),
    )
    op.create_table(
        "unopened_subjects",
        sa.Column("epoch_id", KEY, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["epoch_id"], ["epochs.id"], name="fk_unopened_subjects_epoch_id"),
        sa.PrimaryKeyConstraint("epoch_id", "seq", "digest", name="pk_unopened_subjects"),
    )
    op.create_table(
        "entries",
        sa.Column("epoch_id", KEY, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("boottime_ms", sa.BigInteger(), nullable=True),
        sa.Column("wall_ms", sa.BigInteger(), nullable=True),
        sa.Column("trusted", sa.Boolean(), nullable=True),
        sa.Column("reader", sa.Text(), nullable=True),
        sa.Column("assurance", sa.SmallInteger(), nullable=True),
        sa.Column("credential_id", KEY, nullable=True),
        sa.Column("subject_state", sa.SmallInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("batch_id", KEY, nullable=False),
        sa.CheckConstraint(
            "(subject_state = 1) = (credential_id IS NOT NULL)", name=op.f("ck_entries_subject")
        ),
        sa.CheckConstraint("subject_state BETWEEN 0 AND 3", name=op.f("ck_entries_subject_state")),
        sa.PrimaryKeyConstraint("epoch_id", "seq", name="pk_entries"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_entries_credential_id", "entries", ["credential_id"], unique=False)
    _begin_policies()


def _begin_policies() -> None:
    policies = sa.table(
        "policies",
        sa.column("name", sa.Text()),
        sa.column("value", sa.Text()),
        sa.column("valid_from_ms", sa.BigInteger()),
        sa.column("source", sa.Text()),
    )
    op.create_index(
        "ix_entries_untrusted",
        "entries",
        ["epoch_id", "boottime_ms"],
        unique=False,
        sqlite_where=sa.text("NOT trusted"),
        postgresql_where=sa.text("NOT trusted"),
    )
    op.create_index(
        "ix_entries_problem",
        "entries",
        ["epoch_id", "seq"],
        unique=False,
        sqlite_where=sa.text("problem IS NOT NULL"),
        postgresql_where=sa.text("problem IS NOT NULL"),
    )
    op.bulk_insert(
        policies,
        [
            {
                "name": "time_zone",
                "value": "Asia/Shanghai",
                "valid_from_ms": 0,
                "source": "默认：会议的日期按区县所在时区的开始时间确定（北京时间）",
            },
            {
                "name": "check_in_opens_before_minutes",
                "value": "30",
                "valid_from_ms": 0,
                "source": "默认：会议开始前30分钟起可以刷卡；上级文件无统一规定，可由区县改定",
            },
            {
                "name": "grace_minutes",
                "value": "0",
                "valid_from_ms": 0,
                "source": "默认：会议开始后刷卡即为迟到；上级文件未规定宽限时间，可由区县改定",
            },
        ],
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup made before the upgrade")
