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
        "actions",
        sa.Column("epoch_id", KEY, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("what", sa.SmallInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=True),
        sa.Column("about_credential_id", KEY, nullable=True),
        sa.Column("about_state", sa.SmallInteger(), nullable=False),
        sa.CheckConstraint(
            "(about_state = 1) = (about_credential_id IS NOT NULL)", name=op.f("ck_actions_about")
        ),
        sa.CheckConstraint("about_state BETWEEN 0 AND 3", name=op.f("ck_actions_about_state")),
        sa.PrimaryKeyConstraint("epoch_id", "seq", name=op.f("pk_actions")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_actions_about_credential_id"), "actions", ["about_credential_id"], unique=False
    )
    op.create_table(
        "attendances",
        sa.Column("meeting_id", KEY, nullable=False),
        sa.Column("member_id", KEY, nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=True),
        sa.Column("epoch_id", KEY, nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("declaration_id", KEY, nullable=True),
        sa.Column("taps", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "verdict IN ('PRESENT', 'LATE', 'WITNESSED', 'BACK_FILLED', 'EXCUSED', 'GUEST', 'NOT_SEEN', 'PENDING')",
            name=op.f("ck_attendances_verdict"),
        ),
        sa.CheckConstraint("(epoch_id IS NULL) = (seq IS NULL)", name=op.f("ck_attendances_entry")),
        sa.CheckConstraint(
            "epoch_id IS NOT NULL OR declaration_id IS NOT NULL",
            name=op.f("ck_attendances_evidence"),
        ),
        sa.PrimaryKeyConstraint("meeting_id", "member_id", name=op.f("pk_attendances")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_attendances_member_id_at_ms"), "attendances", ["member_id", "at_ms"], unique=False
    )
    op.create_table(
        "cards",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("public_id", sa.Uuid(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "status IN ('ACTIVE', 'LOST', 'WITHDRAWN')", name=op.f("ck_cards_status")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cards")),
        sa.UniqueConstraint("code", name=op.f("uq_cards_code")),
        sa.UniqueConstraint("public_id", name=op.f("uq_cards_public_id")),
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
        sa.Column("retiring_ms", sa.BigInteger(), nullable=True),
        sa.Column("left_ms", sa.BigInteger(), nullable=True),
        sa.Column("closing_epoch", sa.LargeBinary(), nullable=True),
        sa.Column("closing_seq", sa.BigInteger(), nullable=True),
        sa.Column("compromised_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "status <> 'RETIRED' OR left_ms IS NOT NULL", name=op.f("ck_devices_retired")
        ),
        sa.CheckConstraint(
            "status <> 'COMPROMISED' OR compromised_ms IS NOT NULL",
            name=op.f("ck_devices_compromised"),
        ),
        sa.CheckConstraint(
            "(closing_epoch IS NULL) = (closing_seq IS NULL)", name=op.f("ck_devices_closing")
        ),
        sa.CheckConstraint(
            "status <> 'ACTIVE' OR sign_key IS NOT NULL", name=op.f("ck_devices_active_has_key")
        ),
        sa.CheckConstraint(
            "status IN ('PENDING', 'ACTIVE', 'RETIRED', 'COMPROMISED')",
            name=op.f("ck_devices_status"),
        ),
        sa.CheckConstraint("length(seal_key) = 32", name=op.f("ck_devices_seal_key")),
        sa.CheckConstraint("length(sign_key) = 32", name=op.f("ck_devices_sign_key")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_devices")),
        sa.UniqueConstraint("name", name=op.f("uq_devices_name")),
        sa.UniqueConstraint("public_id", name=op.f("uq_devices_public_id")),
    )
    op.create_table(
        "certificates",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("device_id", KEY, nullable=False),
        sa.Column("serial", sa.Text(), nullable=False),
        sa.Column("sign_key", sa.LargeBinary(), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("issued_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_certificates_device_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_certificates")),
        sa.UniqueConstraint("device_id", "nonce", name=op.f("uq_certificates_device_id_nonce")),
        sa.UniqueConstraint("serial", name=op.f("uq_certificates_serial")),
    )
    op.create_index(op.f("ix_certificates_device_id"), "certificates", ["device_id"], unique=False)
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
        sa.PrimaryKeyConstraint("epoch_id", "seq", name=op.f("pk_entries")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_entries_credential_id"), "entries", ["credential_id"], unique=False)
    op.create_index(
        "ix_entries_problem",
        "entries",
        ["epoch_id", "seq"],
        unique=False,
        sqlite_where=sa.text("problem IS NOT NULL"),
        postgresql_where=sa.text("problem IS NOT NULL"),
    )
    op.create_index(
        "ix_entries_untrusted",
        "entries",
        ["epoch_id", "boottime_ms"],
        unique=False,
        sqlite_where=sa.text("NOT trusted"),
        postgresql_where=sa.text("NOT trusted"),
    )
    op.create_table(
        "hub_state",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("session", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_hub_state_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hub_state")),
    )
    op.create_table(
        "members",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("public_id", sa.Uuid(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_members")),
        sa.UniqueConstraint("code", name=op.f("uq_members_code")),
        sa.UniqueConstraint("public_id", name=op.f("uq_members_public_id")),
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
            ["parent_id"], ["organisations.id"], name=op.f("fk_organisations_parent_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_organisations")),
        sa.UniqueConstraint("code", name=op.f("uq_organisations_code")),
        sa.UniqueConstraint("public_id", name=op.f("uq_organisations_public_id")),
    )
    op.create_index(
        op.f("ix_organisations_parent_id"), "organisations", ["parent_id"], unique=False
    )
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
        sa.PrimaryKeyConstraint("epoch_id", "seq", name=op.f("pk_readings")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_readings_member_id_at_ms"), "readings", ["member_id", "at_ms"], unique=False
    )
    op.create_index(
        "ix_readings_waiting",
        "readings",
        ["venue_id", "at_ms"],
        unique=False,
        sqlite_where=sa.text("outcome IN ('UNMATCHED', 'UNPLACED')"),
        postgresql_where=sa.text("outcome IN ('UNMATCHED', 'UNPLACED')"),
    )
    op.create_index(
        "ix_readings_undated",
        "readings",
        ["epoch_id"],
        unique=False,
        sqlite_where=sa.text("at_ms IS NULL"),
        postgresql_where=sa.text("at_ms IS NULL"),
    )
    op.create_index(
        op.f("ix_readings_venue_id_at_ms"), "readings", ["venue_id", "at_ms"], unique=False
    )
    op.create_table(
        "rejection_counts",
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("last_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("reason", name=op.f("pk_rejection_counts")),
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
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rejections")),
    )
    op.create_table(
        "accounts",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("public_id", sa.Uuid(), nullable=False),
        sa.Column("login", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("organisation_id", KEY, nullable=False),
        sa.Column("member_id", KEY, nullable=True),
        sa.Column("password", sa.Text(), nullable=False),
        sa.Column("must_change", sa.Boolean(), nullable=False),
        sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed_ms", sa.BigInteger(), nullable=True),
        sa.Column("locked_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("made_by_account_id", KEY, nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("disabled_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "role <> 'MEMBER' OR member_id IS NOT NULL", name=op.f("ck_accounts_member")
        ),
        sa.CheckConstraint(
            "role IN ('OPERATOR', 'SECRETARY', 'AUDITOR', 'TECHNICIAN', 'MEMBER')",
            name=op.f("ck_accounts_role"),
        ),
        sa.ForeignKeyConstraint(
            ["made_by_account_id"], ["accounts.id"], name=op.f("fk_accounts_made_by_account_id")
        ),
        sa.ForeignKeyConstraint(["member_id"], ["members.id"], name=op.f("fk_accounts_member_id")),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name=op.f("fk_accounts_organisation_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sa.UniqueConstraint("login", name=op.f("uq_accounts_login")),
        sa.UniqueConstraint("public_id", name=op.f("uq_accounts_public_id")),
    )
    op.create_index(op.f("ix_accounts_member_id"), "accounts", ["member_id"], unique=False)
    op.create_index(
        op.f("ix_accounts_organisation_id"), "accounts", ["organisation_id"], unique=False
    )
    op.create_table(
        "bindings",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("card_id", KEY, nullable=False),
        sa.Column("member_id", KEY, nullable=False),
        sa.Column("valid_from_ms", sa.BigInteger(), nullable=False),
        sa.Column("valid_to_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("valid_to_ms > valid_from_ms", name=op.f("ck_bindings_validity")),
        sa.ForeignKeyConstraint(["card_id"], ["cards.id"], name=op.f("fk_bindings_card_id")),
        sa.ForeignKeyConstraint(["member_id"], ["members.id"], name=op.f("fk_bindings_member_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bindings")),
    )
    op.create_index(op.f("ix_bindings_card_id"), "bindings", ["card_id"], unique=False)
    op.create_index(op.f("ix_bindings_member_id"), "bindings", ["member_id"], unique=False)
    op.create_table(
        "credentials",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("scheme", sa.Text(), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=True),
        sa.Column("card_id", KEY, nullable=True),
        sa.Column("first_seen_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["card_id"], ["cards.id"], name=op.f("fk_credentials_card_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credentials")),
        sa.UniqueConstraint(
            "scheme", "issuer", "value", name=op.f("uq_credentials_scheme_issuer_value")
        ),
    )
    op.create_index(op.f("ix_credentials_card_id"), "credentials", ["card_id"], unique=False)
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
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_enrolment_codes_device_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_enrolment_codes")),
        sa.UniqueConstraint("secret_sha256", name=op.f("uq_enrolment_codes_secret_sha256")),
    )
    op.create_index(
        op.f("ix_enrolment_codes_device_id"), "enrolment_codes", ["device_id"], unique=False
    )
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
        sa.Column("rehearsal", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("rehearsed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint(
            "(parent_epoch IS NULL) = (parent_seq IS NULL) AND (parent_epoch IS NULL) = (parent_digest IS NULL)",
            name=op.f("ck_epochs_parent"),
        ),
        sa.CheckConstraint("length(boot_id) = 16", name=op.f("ck_epochs_boot_id")),
        sa.CheckConstraint("length(epoch) = 16", name=op.f("ck_epochs_epoch")),
        sa.CheckConstraint("through >= 0", name=op.f("ck_epochs_through")),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name=op.f("fk_epochs_device_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_epochs")),
        sa.UniqueConstraint("device_id", "epoch", name=op.f("uq_epochs_device_id_epoch")),
    )
    op.create_index(
        op.f("ix_epochs_device_id_boot_id"), "epochs", ["device_id", "boot_id"], unique=False
    )
    op.create_index(
        op.f("ix_epochs_device_id_parent_epoch"),
        "epochs",
        ["device_id", "parent_epoch"],
        unique=False,
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
        sa.Column("closing", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("derived", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("held", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.CheckConstraint("length(epoch) = 16", name=op.f("ck_heartbeats_epoch")),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_heartbeats_device_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_heartbeats")),
        sa.UniqueConstraint(
            "device_id",
            "epoch",
            "boottime_ms",
            "head_seq",
            name=op.f("uq_heartbeats_device_id_epoch_boottime_ms_head_seq"),
        ),
    )
    op.create_index(
        op.f("ix_heartbeats_device_id_epoch_head_seq"),
        "heartbeats",
        ["device_id", "epoch", "head_seq"],
        unique=False,
    )
    op.create_index(
        op.f("ix_heartbeats_device_id_received_ms"),
        "heartbeats",
        ["device_id", "received_ms"],
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
        "admissions",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("device_id", KEY, nullable=False),
        sa.Column("from_ms", sa.BigInteger(), nullable=False),
        sa.Column("to_ms", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("made_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("from_ms < to_ms", name=op.f("ck_admissions_span")),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_admissions_device_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_admissions")),
    )
    op.create_index(op.f("ix_admissions_device_id"), "admissions", ["device_id"], unique=False)
    op.create_table(
        "settlements",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("device_id", KEY, nullable=False),
        sa.Column("other", sa.Text(), nullable=False),
        sa.Column("last_epoch_id", KEY, nullable=False),
        sa.Column("epoch", sa.LargeBinary(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("made_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("length(epoch) = 16", name=op.f("ck_settlements_epoch")),
        sa.CheckConstraint("other IN ('IN_HAND', 'LOST')", name=op.f("ck_settlements_other")),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_settlements_device_id")
        ),
        sa.ForeignKeyConstraint(
            ["last_epoch_id"], ["epochs.id"], name=op.f("fk_settlements_last_epoch_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_settlements")),
    )
    op.create_index(op.f("ix_settlements_device_id"), "settlements", ["device_id"], unique=False)
    op.create_table(
        "held_messages",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("device_id", KEY, nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("transport", sa.Text(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("entries", sa.BigInteger(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.CheckConstraint("transport IN ('mqtt', 'usb')", name=op.f("ck_held_messages_transport")),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_held_messages_device_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_held_messages")),
        sa.UniqueConstraint("device_id", "sha256", name=op.f("uq_held_messages_device_id_sha256")),
    )
    op.create_index(
        op.f("ix_held_messages_device_id_received_ms"),
        "held_messages",
        ["device_id", "received_ms"],
        unique=False,
    )
    op.create_table(
        "memberships",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("member_id", KEY, nullable=False),
        sa.Column("organisation_id", KEY, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("votes", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("valid_from_ms", sa.BigInteger(), nullable=False),
        sa.Column("valid_to_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("body IN ('MEMBER', 'COMMITTEE')", name=op.f("ck_memberships_body")),
        sa.CheckConstraint("valid_to_ms > valid_from_ms", name=op.f("ck_memberships_validity")),
        sa.ForeignKeyConstraint(
            ["member_id"], ["members.id"], name=op.f("fk_memberships_member_id")
        ),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name=op.f("fk_memberships_organisation_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_memberships")),
    )
    op.create_index(op.f("ix_memberships_member_id"), "memberships", ["member_id"], unique=False)
    op.create_index(
        op.f("ix_memberships_organisation_id"), "memberships", ["organisation_id"], unique=False
    )
    op.create_table(
        "offices",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("member_id", KEY, nullable=False),
        sa.Column("organisation_id", KEY, nullable=False),
        sa.Column("office", sa.Text(), nullable=False),
        sa.Column("valid_from_ms", sa.BigInteger(), nullable=False),
        sa.Column("valid_to_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "office IN ('SECRETARY', 'DEPUTY_SECRETARY', 'ORGANISATION', 'DISCIPLINE', 'PUBLICITY', 'COMMITTEE_MEMBER', 'GROUP_LEADER')",
            name=op.f("ck_offices_office"),
        ),
        sa.CheckConstraint("valid_to_ms > valid_from_ms", name=op.f("ck_offices_validity")),
        sa.ForeignKeyConstraint(["member_id"], ["members.id"], name=op.f("fk_offices_member_id")),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name=op.f("fk_offices_organisation_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_offices")),
    )
    op.create_index(op.f("ix_offices_member_id"), "offices", ["member_id"], unique=False)
    op.create_index(
        op.f("ix_offices_organisation_id"), "offices", ["organisation_id"], unique=False
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
            ["organisation_id"], ["organisations.id"], name=op.f("fk_policies_organisation_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_policies")),
        sa.UniqueConstraint(
            "name",
            "organisation_id",
            "valid_from_ms",
            name=op.f("uq_policies_name_organisation_id_valid_from_ms"),
        ),
    )
    op.create_table(
        "tokens",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("public_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("organisation_id", KEY, nullable=False),
        sa.Column("member_id", KEY, nullable=True),
        sa.Column("made_by_account_id", KEY, nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "role <> 'MEMBER' OR member_id IS NOT NULL", name=op.f("ck_tokens_member")
        ),
        sa.CheckConstraint(
            "role IN ('OPERATOR', 'SECRETARY', 'AUDITOR', 'TECHNICIAN', 'MEMBER')",
            name=op.f("ck_tokens_role"),
        ),
        sa.CheckConstraint("length(token_sha256) = 32", name=op.f("ck_tokens_token_sha256")),
        sa.ForeignKeyConstraint(
            ["made_by_account_id"], ["accounts.id"], name=op.f("fk_tokens_made_by_account_id")
        ),
        sa.ForeignKeyConstraint(["member_id"], ["members.id"], name=op.f("fk_tokens_member_id")),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name=op.f("fk_tokens_organisation_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("name", name=op.f("uq_tokens_name")),
        sa.UniqueConstraint("public_id", name=op.f("uq_tokens_public_id")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_tokens_token_sha256")),
    )
    op.create_table(
        "venues",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("public_id", sa.Uuid(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("organisation_id", KEY, nullable=False),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name=op.f("fk_venues_organisation_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_venues")),
        sa.UniqueConstraint("code", name=op.f("uq_venues_code")),
        sa.UniqueConstraint("public_id", name=op.f("uq_venues_public_id")),
    )
    op.create_index(op.f("ix_venues_organisation_id"), "venues", ["organisation_id"], unique=False)
    op.create_table(
        "audit",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("account_id", KEY, nullable=True),
        sa.Column("token_id", KEY, nullable=True),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("organisation_id", KEY, nullable=True),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("object_id", sa.Uuid(), nullable=True),
        sa.Column("details", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_audit_account_id")),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name=op.f("fk_audit_organisation_id")
        ),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name=op.f("fk_audit_token_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_object_id"), "audit", ["object_id"], unique=False)
    op.create_index(op.f("ix_audit_organisation_id"), "audit", ["organisation_id"], unique=False)
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
        sa.Column("held", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.CheckConstraint("transport IN ('mqtt', 'usb')", name=op.f("ck_batches_transport")),
        sa.ForeignKeyConstraint(["epoch_id"], ["epochs.id"], name=op.f("fk_batches_epoch_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    op.create_index(
        op.f("ix_batches_epoch_id_first"), "batches", ["epoch_id", "first"], unique=False
    )
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
        sa.ForeignKeyConstraint(["epoch_id"], ["epochs.id"], name=op.f("fk_islands_epoch_id")),
        sa.PrimaryKeyConstraint("epoch_id", "first", name=op.f("pk_islands")),
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
        sa.Column("chair", sa.Text(), server_default="", nullable=False),
        sa.Column("change", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint(
            "kind IN ('BRANCH_ASSEMBLY', 'BRANCH_COMMITTEE', 'PARTY_GROUP', 'PARTY_LECTURE', 'THEME_PARTY_DAY')",
            name=op.f("ck_meetings_kind"),
        ),
        sa.CheckConstraint("grace_minutes >= 0", name=op.f("ck_meetings_grace_minutes")),
        sa.CheckConstraint(
            "opens_ms <= starts_ms AND starts_ms < ends_ms", name=op.f("ck_meetings_times")
        ),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name=op.f("fk_meetings_organisation_id")
        ),
        sa.ForeignKeyConstraint(["venue_id"], ["venues.id"], name=op.f("fk_meetings_venue_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_meetings")),
        sa.UniqueConstraint("code", name=op.f("uq_meetings_code")),
        sa.UniqueConstraint("public_id", name=op.f("uq_meetings_public_id")),
    )
    op.create_index(
        op.f("ix_meetings_organisation_id_starts_ms"),
        "meetings",
        ["organisation_id", "starts_ms"],
        unique=False,
    )
    op.create_index(
        op.f("ix_meetings_venue_id_opens_ms"), "meetings", ["venue_id", "opens_ms"], unique=False
    )
    op.create_table(
        "placements",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("device_id", KEY, nullable=False),
        sa.Column("venue_id", KEY, nullable=False),
        sa.Column("valid_from_ms", sa.BigInteger(), nullable=False),
        sa.Column("valid_to_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("valid_to_ms > valid_from_ms", name=op.f("ck_placements_validity")),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_placements_device_id")
        ),
        sa.ForeignKeyConstraint(["venue_id"], ["venues.id"], name=op.f("fk_placements_venue_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_placements")),
    )
    op.create_index(op.f("ix_placements_device_id"), "placements", ["device_id"], unique=False)
    op.create_index(op.f("ix_placements_venue_id"), "placements", ["venue_id"], unique=False)
    op.create_table(
        "sessions",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("public_id", sa.Uuid(), nullable=False),
        sa.Column("session_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("account_id", KEY, nullable=False),
        sa.Column("browser", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("length(session_sha256) = 32", name=op.f("ck_sessions_session_sha256")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_sessions_account_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        sa.UniqueConstraint("public_id", name=op.f("uq_sessions_public_id")),
        sa.UniqueConstraint("session_sha256", name=op.f("uq_sessions_session_sha256")),
    )
    op.create_index(op.f("ix_sessions_account_id"), "sessions", ["account_id"], unique=False)
    op.create_table(
        "desk_readings",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("public_id", sa.Uuid(), nullable=False),
        sa.Column("token_id", KEY, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("scheme", sa.Text(), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=True),
        sa.Column("last", sa.Text(), nullable=False),
        sa.Column("card_id", KEY, nullable=True),
        sa.Column("member_id", KEY, nullable=True),
        sa.Column("undo", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(undo IS NULL) = (card_id IS NULL) AND (undo IS NULL) = (member_id IS NULL)",
            name=op.f("ck_desk_readings_used"),
        ),
        sa.CheckConstraint("value IS NULL OR undo IS NULL", name=op.f("ck_desk_readings_value")),
        sa.ForeignKeyConstraint(["card_id"], ["cards.id"], name=op.f("fk_desk_readings_card_id")),
        sa.ForeignKeyConstraint(
            ["member_id"], ["members.id"], name=op.f("fk_desk_readings_member_id")
        ),
        sa.ForeignKeyConstraint(
            ["token_id"], ["tokens.id"], name=op.f("fk_desk_readings_token_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_desk_readings")),
        sa.UniqueConstraint("public_id", name=op.f("uq_desk_readings_public_id")),
    )
    op.create_index(
        op.f("ix_desk_readings_expires_ms"), "desk_readings", ["expires_ms"], unique=False
    )
    op.create_index(op.f("ix_desk_readings_token_id"), "desk_readings", ["token_id"], unique=False)
    op.create_table(
        "unopened_subjects",
        sa.Column("epoch_id", KEY, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["epoch_id"], ["epochs.id"], name=op.f("fk_unopened_subjects_epoch_id")
        ),
        sa.PrimaryKeyConstraint("epoch_id", "seq", "digest", name=op.f("pk_unopened_subjects")),
    )
    op.create_table(
        "accesses",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("account_id", KEY, nullable=True),
        sa.Column("token_id", KEY, nullable=True),
        sa.Column("scope_id", KEY, nullable=True),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("meeting_id", KEY, nullable=True),
        sa.Column("member_id", KEY, nullable=True),
        sa.Column("organisation_id", KEY, nullable=True),
        sa.Column("from_ms", sa.BigInteger(), nullable=True),
        sa.Column("to_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_accesses_account_id")
        ),
        sa.ForeignKeyConstraint(
            ["meeting_id"], ["meetings.id"], name=op.f("fk_accesses_meeting_id")
        ),
        sa.ForeignKeyConstraint(["member_id"], ["members.id"], name=op.f("fk_accesses_member_id")),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name=op.f("fk_accesses_organisation_id")
        ),
        sa.ForeignKeyConstraint(
            ["scope_id"], ["organisations.id"], name=op.f("fk_accesses_scope_id")
        ),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name=op.f("fk_accesses_token_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accesses")),
    )
    op.create_index(op.f("ix_accesses_meeting_id"), "accesses", ["meeting_id"], unique=False)
    op.create_index(op.f("ix_accesses_member_id"), "accesses", ["member_id"], unique=False)
    op.create_index(
        op.f("ix_accesses_organisation_id"), "accesses", ["organisation_id"], unique=False
    )
    op.create_table(
        "declarations",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("public_id", sa.Uuid(), nullable=False),
        sa.Column("meeting_id", KEY, nullable=False),
        sa.Column("member_id", KEY, nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("about_id", KEY, nullable=True),
        sa.Column("epoch_id", KEY, nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("account_id", KEY, nullable=True),
        sa.Column("token_id", KEY, nullable=True),
        sa.Column("made_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('HELD', 'NOT_HELD', 'HEAD_COUNT', 'WITNESSED', 'SHEET', 'SHEET_COMPLETE', 'LEAVE_ASKED', 'LEAVE_GRANTED', 'LEAVE_REFUSED', 'BACK_FILL_ASKED', 'BACK_FILL_GRANTED', 'BACK_FILL_REFUSED', 'TAP_ASSIGNED', 'OBJECTION', 'OBJECTION_UPHELD', 'OBJECTION_DISMISSED', 'WITHDRAWN')",
            name=op.f("ck_declarations_kind"),
        ),
        sa.CheckConstraint(
            "(epoch_id IS NULL) = (seq IS NULL)", name=op.f("ck_declarations_entry")
        ),
        sa.CheckConstraint("number >= 0", name=op.f("ck_declarations_number")),
        sa.ForeignKeyConstraint(
            ["about_id"], ["declarations.id"], name=op.f("fk_declarations_about_id")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_declarations_account_id")
        ),
        sa.ForeignKeyConstraint(
            ["meeting_id"], ["meetings.id"], name=op.f("fk_declarations_meeting_id")
        ),
        sa.ForeignKeyConstraint(
            ["member_id"], ["members.id"], name=op.f("fk_declarations_member_id")
        ),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name=op.f("fk_declarations_token_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_declarations")),
        sa.UniqueConstraint("public_id", name=op.f("uq_declarations_public_id")),
    )
    op.create_index(op.f("ix_declarations_about_id"), "declarations", ["about_id"], unique=False)
    op.create_index(
        "ix_declarations_entry",
        "declarations",
        ["epoch_id", "seq"],
        unique=False,
        sqlite_where=sa.text("epoch_id IS NOT NULL"),
        postgresql_where=sa.text("epoch_id IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_declarations_meeting_id"), "declarations", ["meeting_id"], unique=False
    )
    op.create_index(op.f("ix_declarations_member_id"), "declarations", ["member_id"], unique=False)
    op.create_table(
        "gaps",
        sa.Column("epoch_id", KEY, nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("batch_id", KEY, nullable=False),
        sa.CheckConstraint("first <= last", name=op.f("ck_gaps_range")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_gaps_batch_id")),
        sa.ForeignKeyConstraint(["epoch_id"], ["epochs.id"], name=op.f("fk_gaps_epoch_id")),
        sa.PrimaryKeyConstraint("epoch_id", "first", name=op.f("pk_gaps")),
    )
    op.create_table(
        "meeting_organisations",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("meeting_id", KEY, nullable=False),
        sa.Column("organisation_id", KEY, nullable=False),
        sa.Column("agreed_ms", sa.BigInteger(), nullable=True),
        sa.Column("left_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["meeting_id"], ["meetings.id"], name=op.f("fk_meeting_organisations_meeting_id")
        ),
        sa.ForeignKeyConstraint(
            ["organisation_id"],
            ["organisations.id"],
            name=op.f("fk_meeting_organisations_organisation_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_meeting_organisations")),
    )
    op.create_index(
        op.f("ix_meeting_organisations_meeting_id"),
        "meeting_organisations",
        ["meeting_id"],
        unique=False,
    )
    op.create_index(
        "uq_meeting_organisations_now",
        "meeting_organisations",
        ["meeting_id", "organisation_id"],
        unique=True,
        sqlite_where=sa.text("left_ms IS NULL"),
        postgresql_where=sa.text("left_ms IS NULL"),
    )
    op.create_index(
        op.f("ix_meeting_organisations_organisation_id"),
        "meeting_organisations",
        ["organisation_id"],
        unique=False,
    )
    _forbid_changes()
    _begin_policies()


def _begin_policies() -> None:
    policies = sa.table(
        "policies",
        sa.column("name", sa.Text()),
        sa.column("value", sa.Text()),
        sa.column("valid_from_ms", sa.BigInteger()),
        sa.column("source", sa.Text()),
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
            {
                "name": "back_fill_days",
                "value": "7",
                "valid_from_ms": 0,
                "source": "默认：会后7天内可以申请补签；上级文件无统一规定，可由区县改定",
            },
            {
                "name": "back_fill_per_year",
                "value": "3",
                "valid_from_ms": 0,
                "source": "默认：每人每年补签不超过3次；上级文件无统一规定，可由区县改定",
            },
            {
                "name": "quorum_assembly",
                "value": "MORE_THAN_HALF",
                "valid_from_ms": 0,
                "source": "《中国共产党支部工作条例（试行）》（2018）第十一条：党支部党员大会应有半数以上"
                "有表决权的党员到会；“半数以上”按超过半数理解，可由区县改定",
            },
        ],
    )


def _forbid_changes() -> None:
    """What was done and looked at stays as it was written."""
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    if not on_sqlite:
        op.execute(
            "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
        )
    for table in ("audit", "accesses", "declarations"):
        for change in ("UPDATE", "DELETE"):
            name = f"{table}_no_{change.lower()}"
            body = (
                f"FOR EACH ROW BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                if on_sqlite
                else "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
            )
            op.execute(f"CREATE TRIGGER {name} BEFORE {change} ON {table} {body}")


def downgrade() -> None:
    raise NotImplementedError("restore a backup made before the upgrade")
