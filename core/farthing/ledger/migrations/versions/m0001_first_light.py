"""The first tables: inbox, boots, fits, windows, journal, requests; the journal refuses changes."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, and the triggers that keep the journal append-only."""
    op.create_table(
        "adjustments",
        sa.Column("boot", sa.String(length=128), nullable=False),
        sa.Column("engine_index", sa.Integer(), nullable=False),
        sa.Column("start_ns", sa.BigInteger(), nullable=False, comment="window, monotonic time of the boot"),
        sa.Column("process", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False, comment="of the late record"),
        sa.PrimaryKeyConstraint("boot", "engine_index", "start_ns", "process", "sequence"),
    )
    op.create_table(
        "boots",
        sa.Column("boot", sa.String(length=128), nullable=False),
        sa.Column("engine", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("gpu", sa.String(length=128), nullable=False),
        sa.Column("gpu_count", sa.Integer(), nullable=False),
        sa.Column("price_version", sa.Text(), nullable=False),
        sa.Column("wall_ns", sa.BigInteger(), nullable=False, comment="UTC of the anchor"),
        sa.Column("mono_ns", sa.BigInteger(), nullable=False, comment="monotonic time of the anchor"),
        sa.Column("started_ns", sa.BigInteger(), nullable=False, comment="UTC"),
        sa.Column(
            "closed_ns",
            sa.BigInteger(),
            nullable=True,
            comment="UTC; set once nothing of this boot can change any more",
        ),
        sa.Column("bill_nano", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lost", sa.BigInteger(), server_default="0", nullable=False, comment="records that were not costed"),
        sa.Column("energy_first_mj", sa.BigInteger(), nullable=True),
        sa.Column("energy_last_mj", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("boot"),
    )
    op.create_index(op.f("ix_boots_engine"), "boots", ["engine"], unique=False)
    op.create_table(
        "fits",
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("boot", sa.String(length=128), nullable=False),
        sa.Column("engine_index", sa.Integer(), nullable=False),
        sa.Column("method", sa.String(length=16), nullable=False),
        sa.Column(
            "evidence", sa.Text(), nullable=False, comment="JSON: coefficients, intervals, walk_forward_wape, windows"
        ),
        sa.PrimaryKeyConstraint("version", "boot", "engine_index"),
    )
    op.create_table(
        "journal",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("boot", sa.String(length=128), nullable=False),
        sa.Column("engine_index", sa.Integer(), nullable=False),
        sa.Column("start_ns", sa.BigInteger(), nullable=False, comment="window, monotonic time of the boot"),
        sa.Column("wall_start_ns", sa.BigInteger(), nullable=False),
        sa.Column("wall_end_ns", sa.BigInteger(), nullable=False),
        sa.Column("engine", sa.String(length=128), nullable=False),
        sa.Column("debit", sa.String(length=32), nullable=False, comment="account that bears the cost"),
        sa.Column("credit", sa.String(length=32), nullable=False, comment="account that the money comes from"),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("tenant", sa.String(length=256), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("tier", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("method", sa.String(length=16), nullable=False),
        sa.Column("nano", sa.BigInteger(), nullable=False),
        sa.Column("millijoules", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("fit_version", sa.String(length=64), nullable=False),
        sa.Column("price_version", sa.Text(), nullable=False),
        sa.Column("policy_version", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        op.f("ix_journal_boot_engine_index_start_ns"), "journal", ["boot", "engine_index", "start_ns"], unique=False
    )
    op.create_index(op.f("ix_journal_wall_start_ns"), "journal", ["wall_start_ns"], unique=False)
    op.create_table(
        "records",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
            comment="order of arrival",
        ),
        sa.Column("boot", sa.String(length=128), nullable=False),
        sa.Column("process", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("event_ns", sa.BigInteger(), nullable=False, comment="monotonic time of the boot"),
        sa.Column("line", sa.LargeBinary(), nullable=False, comment="the JSON line as received"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("boot", "process", "sequence", name=op.f("uq_records_boot_process_sequence")),
    )
    op.create_table(
        "requests",
        sa.Column("boot", sa.String(length=128), nullable=False),
        sa.Column("process", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("engine", sa.String(length=128), nullable=False),
        sa.Column("request_id", sa.String(length=512), nullable=False),
        sa.Column("ended_wall_ns", sa.BigInteger(), nullable=False),
        sa.Column("tenant", sa.String(length=512), nullable=False),
        sa.Column("project", sa.String(length=512), nullable=False),
        sa.Column("workload", sa.String(length=512), nullable=False),
        sa.Column("tier", sa.String(length=512), nullable=False),
        sa.Column("model", sa.String(length=512), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("seen_by", sa.String(length=16), nullable=False),
        sa.Column("trace_id", sa.String(length=64), nullable=False),
        sa.Column("prompt_computed", sa.BigInteger(), nullable=True, comment="NULL: nobody told"),
        sa.Column("prompt_cached", sa.BigInteger(), nullable=True),
        sa.Column("image_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("prefill_nano", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("decode_nano", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("vision_nano", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("energy_mj", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "saved_nano", sa.BigInteger(), server_default="0", nullable=False, comment="by caches; not money spent"
        ),
        sa.PrimaryKeyConstraint("boot", "process", "sequence"),
    )
    op.create_index(op.f("ix_requests_ended_wall_ns"), "requests", ["ended_wall_ns"], unique=False)
    op.create_index(op.f("ix_requests_request_id"), "requests", ["request_id"], unique=False)
    op.create_table(
        "windows",
        sa.Column("boot", sa.String(length=128), nullable=False),
        sa.Column("engine_index", sa.Integer(), nullable=False),
        sa.Column("start_ns", sa.BigInteger(), nullable=False, comment="monotonic time of the boot"),
        sa.Column("end_ns", sa.BigInteger(), nullable=False),
        sa.Column("wall_start_ns", sa.BigInteger(), nullable=False),
        sa.Column("wall_end_ns", sa.BigInteger(), nullable=False),
        sa.Column("bill_nano", sa.BigInteger(), nullable=False),
        sa.Column("busy_ns", sa.BigInteger(), nullable=False),
        sa.Column("energy_mj", sa.BigInteger(), nullable=True, comment="NULL: no device was sampled"),
        sa.Column("prefill_ns", sa.BigInteger(), nullable=False),
        sa.Column("decode_ns", sa.BigInteger(), nullable=False),
        sa.Column("vision_ns", sa.BigInteger(), nullable=False),
        sa.Column("prompt_computed", sa.BigInteger(), nullable=False, comment="tokens, as the engine counted them"),
        sa.Column("prompt_cached", sa.BigInteger(), nullable=False),
        sa.Column("engine_output", sa.BigInteger(), nullable=False),
        sa.Column("encoder", sa.BigInteger(), nullable=False),
        sa.Column("fit_version", sa.String(length=64), nullable=False),
        sa.Column("features", sa.Text(), nullable=False, comment="JSON: what the fit saw"),
        sa.PrimaryKeyConstraint("boot", "engine_index", "start_ns"),
    )
    if op.get_bind().dialect.name == "sqlite":
        for action in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER journal_no_{action.lower()} BEFORE {action} ON journal "
                "BEGIN SELECT RAISE(ABORT, 'the journal is append-only: reverse and repost'); END"
            )
    else:
        op.execute(
            "CREATE FUNCTION journal_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the journal is append-only: reverse and repost'; END $$"
        )
        op.execute(
            "CREATE TRIGGER journal_no_change BEFORE UPDATE OR DELETE ON journal "
            "FOR EACH ROW EXECUTE FUNCTION journal_append_only()"
        )
