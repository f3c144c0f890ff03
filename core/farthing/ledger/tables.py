"""The ledger's tables. Money is integer nano-dollars, time integer nanoseconds; JSON columns hold evidence.

``records`` is the inbox, exactly as received; everything else is derived from it and could be recomputed. Besides
records it holds what Farthing itself has to remember in their order: a refused record under a negative sequence
(``domain.records.mirrored``), and the silence of a boot under the process -1.
``journal``, ``closings``, ``statements``, ``statement_lines``, ``dispute_marks``, ``budget_events``, ``seals`` and
``erasures`` are append-only: triggers refuse updates and deletes. Tables that end in ``_hours``, and ``boot_lines``,
are sums of the others, kept in the same transactions and for ever; ``hour`` is hours since the epoch, UTC.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

__all__ = [
    "APPEND_ONLY",
    "COST_KEYS",
    "adjustments",
    "boot_lines",
    "boots",
    "budget_events",
    "closings",
    "cost_hours",
    "discovered_engines",
    "dispute_marks",
    "erasures",
    "fits",
    "gpu_presence",
    "journal",
    "metadata",
    "metric_seats",
    "probed_engines",
    "records",
    "requests",
    "saving_hours",
    "seals",
    "statement_lines",
    "statements",
    "unpriced_engines",
    "usage_hours",
    "versions",
    "window_hours",
    "windows",
]

APPEND_ONLY = (
    "journal",
    "closings",
    "statements",
    "statement_lines",
    "dispute_marks",
    "budget_events",
    "seals",
    "erasures",
)
"""Tables whose rows never change once they are written."""

metadata = MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "uq": "uq_%(table_name)s_%(column_0_N_name)s"}
)

_Id = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only for INTEGER keys."""

records = Table(
    "records",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True, comment="order of arrival"),
    Column("boot", String(128), nullable=False),
    Column("process", Integer, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("event_ns", BigInteger, nullable=False, comment="monotonic time of the boot"),
    Column("line", LargeBinary, nullable=False, comment="the JSON line as received"),
    UniqueConstraint("boot", "process", "sequence"),
)

boots = Table(
    "boots",
    metadata,
    Column("boot", String(128), primary_key=True),
    Column("engine", String(128), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("model", String(256), nullable=False),
    Column("gpu", String(128), nullable=False),
    Column("gpu_count", Integer, nullable=False),
    Column("price_version", Text, nullable=False),
    Column("wall_ns", BigInteger, nullable=False, comment="UTC of the anchor"),
    Column("mono_ns", BigInteger, nullable=False, comment="monotonic time of the anchor"),
    Column("started_ns", BigInteger, nullable=False, comment="UTC"),
    Column("closed_ns", BigInteger, nullable=True, comment="UTC; set once nothing of this boot can change any more"),
    Column("bill_nano", BigInteger, nullable=False, server_default="0"),
    Column("lost", BigInteger, nullable=False, server_default="0", comment="records that were not costed"),
    Column("energy_first_mj", BigInteger, nullable=True),
    Column("energy_last_mj", BigInteger, nullable=True),
    Column("refused", BigInteger, nullable=False, server_default="0"),
    Column("ranks", Integer, nullable=False, server_default="1", comment="engine indices that share the bill"),
    Column("billed_from_ns", BigInteger, nullable=True, comment="UTC; what lay before was billed by counters"),
    Column("covered_ns", BigInteger, nullable=False, server_default="0", comment="UTC; windows reach up to here"),
    Column("read_id", BigInteger, nullable=False, server_default="0", comment="the books hold its records up to here"),
    Column("costing", Text, nullable=False, server_default="", comment="JSON: settings that its windows are made with"),
    Column(
        "gpu_uuids",
        Text,
        nullable=False,
        server_default="[]",
        comment="JSON: UUIDs of its GPUs, as far as anybody told",
    ),
    Column("ended_ns", BigInteger, nullable=True, comment="UTC; set once no amount of it can change any more"),
    Column("given_up_ns", BigInteger, nullable=True, comment="UTC; its records cannot be costed from here on"),
    Index(None, "engine"),
)

fits = Table(
    "fits",
    metadata,
    Column("version", String(64), primary_key=True),
    Column("boot", String(128), primary_key=True),
    Column("engine_index", Integer, primary_key=True),
    Column("method", String(16), nullable=False),
    Column("evidence", Text, nullable=False, comment="JSON: coefficients, intervals, walk_forward_wape, windows"),
)

windows = Table(
    "windows",
    metadata,
    Column("boot", String(128), primary_key=True),
    Column("engine_index", Integer, primary_key=True),
    Column("start_ns", BigInteger, primary_key=True, comment="monotonic time of the boot"),
    Column("end_ns", BigInteger, nullable=False),
    Column("wall_start_ns", BigInteger, nullable=False),
    Column("wall_end_ns", BigInteger, nullable=False),
    Column("bill_nano", BigInteger, nullable=False),
    Column("busy_ns", BigInteger, nullable=False),
    Column("energy_mj", BigInteger, nullable=True, comment="NULL: no device was sampled"),
    Column("prefill_ns", BigInteger, nullable=False),
    Column("decode_ns", BigInteger, nullable=False),
    Column("vision_ns", BigInteger, nullable=False),
    Column("prompt_computed", BigInteger, nullable=False, comment="tokens, as the engine counted them"),
    Column("prompt_cached", BigInteger, nullable=False),
    Column("engine_output", BigInteger, nullable=False),
    Column("encoder", BigInteger, nullable=False),
    Column("fit_version", String(64), nullable=False),
    Column("features", Text, nullable=False, comment="JSON: what the fit saw"),
)

journal = Table(
    "journal",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("boot", String(128), nullable=False),
    Column("engine_index", Integer, nullable=False),
    Column("start_ns", BigInteger, nullable=False, comment="window, monotonic time of the boot"),
    Column("wall_start_ns", BigInteger, nullable=False),
    Column("wall_end_ns", BigInteger, nullable=False),
    Column("engine", String(128), nullable=False),
    Column("debit", String(32), nullable=False, comment="account that bears the cost"),
    Column("credit", String(32), nullable=False, comment="account that the money comes from"),
    Column("phase", String(16), nullable=False),
    Column("tenant", String(256), nullable=False),
    Column("model", String(256), nullable=False),
    Column("tier", String(64), nullable=False),
    Column("reason", String(32).with_variant(String(128), "postgresql"), nullable=False),
    Column("method", String(16), nullable=False),
    Column("nano", BigInteger, nullable=False),
    Column("millijoules", BigInteger, nullable=False, server_default="0"),
    Column("state", String(16), nullable=False),
    Column("fit_version", String(64), nullable=False),
    Column("price_version", Text, nullable=False),
    Column("policy_version", String(64), nullable=False),
    Column("project", String(512), nullable=False, server_default=""),
    Column("period", String(7), nullable=False, server_default="", comment="posted in; of service: wall_end_ns - 1"),
    Index(None, "wall_start_ns"),
    Index(None, "boot", "engine_index", "start_ns"),
)

adjustments = Table(
    "adjustments",
    metadata,
    Column("boot", String(128), primary_key=True),
    Column("engine_index", Integer, primary_key=True),
    Column("start_ns", BigInteger, primary_key=True, comment="window, monotonic time of the boot"),
    Column("process", Integer, primary_key=True),
    Column("sequence", BigInteger, primary_key=True, comment="of the late record"),
)

_TRACED = text("trace_id <> ''")

requests = Table(
    "requests",
    metadata,
    Column("boot", String(128), primary_key=True),
    Column("process", Integer, primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("engine", String(128), nullable=False),
    Column("request_id", String(512), nullable=False),
    Column("ended_wall_ns", BigInteger, nullable=False),
    Column("tenant", String(512), nullable=False),
    Column("project", String(512), nullable=False),
    Column("workload", String(512), nullable=False),
    Column("tier", String(512), nullable=False),
    Column("model", String(512), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("status", Integer, nullable=False),
    Column("seen_by", String(16), nullable=False),
    Column("trace_id", String(64), nullable=False),
    Column("prompt_computed", BigInteger, nullable=True, comment="NULL: nobody told"),
    Column("prompt_cached", BigInteger, nullable=True),
    Column("image_tokens", BigInteger, nullable=True),
    Column("output_tokens", BigInteger, nullable=True),
    Column("prefill_nano", BigInteger, nullable=False, server_default="0"),
    Column("decode_nano", BigInteger, nullable=False, server_default="0"),
    Column("vision_nano", BigInteger, nullable=False, server_default="0"),
    Column("energy_mj", BigInteger, nullable=False, server_default="0"),
    Column("saved_nano", BigInteger, nullable=False, server_default="0", comment="by caches; not money spent"),
    Column("span_id", String(16), nullable=False, server_default="", comment="of the edge span"),
    Column("parent_span_id", String(16), nullable=False, server_default="", comment="of the caller's span"),
    Column(
        "estimate_nano",
        BigInteger,
        nullable=True,
        comment="at the prices that the probe knew; NULL: one was not known",
    ),
    Index(None, "ended_wall_ns"),
    Index(None, "request_id"),
    # those of requests without a trace would be its larger part
    Index("ix_requests_trace_id", "trace_id", sqlite_where=_TRACED, postgresql_where=_TRACED),
)

_WHO = ("tenant", "project", "model", "tier")


def _who() -> list[Column[str]]:
    return [Column(name, String(512), primary_key=True) for name in _WHO]


COST_KEYS = ("tenant", "project", "model", "tier", "engine", "account", "phase", "method", "reason")
"""What costs are told apart by, beside time."""

cost_hours = Table(
    "cost_hours",
    metadata,
    Column("hour", BigInteger, primary_key=True, comment="of service: the last nanosecond of the window"),
    Column("period", String(7), primary_key=True, comment="posted in"),
    Column("engine", String(128), primary_key=True),
    Column("account", String(32), primary_key=True),
    Column("phase", String(16), primary_key=True),
    *_who(),
    Column("reason", String(128), primary_key=True),
    Column("method", String(16), primary_key=True),
    Column("nano", BigInteger, nullable=False),
    Column("late_nano", BigInteger, nullable=False, comment="what late records took out: the negative lines, negated"),
    Column("millijoules", BigInteger, nullable=False),
    Index(None, "period"),
    # sums by any of them are read in order from the index alone; PostgreSQL has no need of it, since it groups by hash
    Index("ix_cost_hours_sums", *COST_KEYS, "hour", "nano", "late_nano", "millijoules").ddl_if("sqlite"),
)

usage_hours = Table(
    "usage_hours",
    metadata,
    Column("hour", BigInteger, primary_key=True, comment="in which the requests ended"),
    Column("period", String(7), primary_key=True, comment="posted in"),
    Column("engine", String(128), primary_key=True),
    *_who(),
    Column("outcome", String(16), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("prompt_computed", BigInteger, nullable=False),
    Column("prompt_cached", BigInteger, nullable=False),
    Column("image_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("uncounted", BigInteger, nullable=False, comment="requests whose tokens nobody told"),
    Column("one_sided", BigInteger, nullable=False, comment="finished, and seen by engine or client alone"),
    Index(None, "period"),
)

saving_hours = Table(
    "saving_hours",
    metadata,
    Column("hour", BigInteger, primary_key=True),
    Column("period", String(7), primary_key=True),
    Column("engine", String(128), primary_key=True),
    *_who(),
    Column("nano", BigInteger, nullable=False, comment="saved by caches; not money spent"),
)

window_hours = Table(
    "window_hours",
    metadata,
    Column("hour", BigInteger, primary_key=True),
    Column("engine", String(128), primary_key=True),
    Column("bill_nano", BigInteger, nullable=False),
    Column("busy_ns", BigInteger, nullable=False),
    Column("windows", BigInteger, nullable=False),
    *(Column(f"{phase}_ns", BigInteger, nullable=False) for phase in ("prefill", "decode", "vision")),
    Column("prompt_computed", BigInteger, nullable=False),
    Column("prompt_cached", BigInteger, nullable=False),
    Column("engine_output", BigInteger, nullable=False),
    Column("encoder", BigInteger, nullable=False),
)

boot_lines = Table(
    "boot_lines",
    metadata,
    Column("boot", String(128), primary_key=True),
    Column("period", String(7), primary_key=True, comment="posted in"),
    Column("account", String(32), primary_key=True),
    Column("nano", BigInteger, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("kind", String(16), primary_key=True, comment="price or policy"),
    Column("version", String(128), primary_key=True),
    Column("content", Text, nullable=False, comment="all that the version stands for"),
)

closings = Table(
    "closings",
    metadata,
    Column("period", String(7), primary_key=True),
    Column("closed_ns", BigInteger, nullable=False, comment="UTC of the sign-off"),
    Column("signed_by", String(256), nullable=False),
    Column("note", Text, nullable=False),
    Column("policy_version", String(128), nullable=False),
    Column("opening_wip_nano", BigInteger, nullable=False),
    Column("bill_nano", BigInteger, nullable=False),
    Column("closing_wip_nano", BigInteger, nullable=False),
    Column("document", LargeBinary, nullable=False, comment="canonical JSON: boots, pools, evidence"),
    Column("sha256", String(64), nullable=False),
)

statements = Table(
    "statements",
    metadata,
    Column("number", String(32), primary_key=True),
    Column("period", String(7), nullable=False),
    Column("tenant", String(512), nullable=False, comment="empty: the platform's own"),
    Column("total_nano", BigInteger, nullable=False),
    Column("document", LargeBinary, nullable=False, comment="canonical JSON, as it was issued"),
    Column("sha256", String(64), nullable=False),
    UniqueConstraint("period", "tenant"),
)

statement_lines = Table(
    "statement_lines",
    metadata,
    Column("number", String(32), primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("section", String(16), nullable=False),
    Column("service_period", String(7), nullable=False),
    Column("account", String(32), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("tenant", String(512), nullable=False),
    Column("project", String(512), nullable=False),
    Column("cost_centre", String(128), nullable=False),
    Column("model", String(512), nullable=False),
    Column("tier", String(512), nullable=False),
    Column("gl_account", String(64), nullable=False),
    Column("amount_nano", BigInteger, nullable=True, comment="NULL: unpriced"),
)

dispute_marks = Table(
    "dispute_marks",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("number", String(32), nullable=False),
    Column("line", Integer, nullable=True, comment="NULL: the whole statement"),
    Column("at_ns", BigInteger, nullable=False, comment="UTC"),
    Column("marked_by", String(256), nullable=False),
    Column("mark", String(16), nullable=False, comment="disputed, resolved or withdrawn"),
    Column("note", Text, nullable=False),
    Index(None, "number"),
)

budget_events = Table(
    "budget_events",
    metadata,
    Column("budget", String(1600), primary_key=True, comment="its scope: tenant=… project=… model=…"),
    Column("monthly_nano", BigInteger, primary_key=True),
    Column("month", String(7), primary_key=True),
    Column("threshold_ppm", BigInteger, primary_key=True, comment="share of the budget, in millionths"),
    Column("spent_nano", BigInteger, nullable=False, comment="settled spend when it was seen"),
    Column("at_ns", BigInteger, nullable=False, comment="UTC when it was seen"),
)

probed_engines = Table(
    "probed_engines",
    metadata,
    Column("engine", String(128), primary_key=True),
    Column("first_id", BigInteger, nullable=False, comment="record in whose arrival its probe first reported"),
)

unpriced_engines = Table(
    "unpriced_engines",
    metadata,
    Column("engine", String(128), primary_key=True),
    Column("model", String(256), nullable=False),
    Column("gpu", String(128), nullable=False),
    Column("gpu_count", Integer, nullable=False),
    Column("since_ns", BigInteger, nullable=False, comment="UTC; its work since then is in no amount"),
    Column("reason", Text, nullable=False),
)

discovered_engines = Table(
    "discovered_engines",
    metadata,
    Column("engine", String(128), primary_key=True),
    Column("settings", Text, nullable=False, comment="JSON: how it is watched and paid for, as it was discovered last"),
    Column("since_ns", BigInteger, nullable=False, comment="UTC when it was discovered first"),
    Column("changed_ns", BigInteger, nullable=False, comment="UTC when its settings became these"),
)

metric_seats = Table(
    "metric_seats",
    metadata,
    Column("label", String(16), primary_key=True, comment="tenant or tier"),
    Column("value", String(512), primary_key=True, comment="that has series of its own"),
)

gpu_presence = Table(
    "gpu_presence",
    metadata,
    Column("uuid", String(96), primary_key=True),
    Column("first_ns", BigInteger, primary_key=True, comment="UTC of the first sample"),
    Column("last_ns", BigInteger, nullable=False, comment="UTC of the last sample"),
    Column("host", String(256), nullable=False),
    Column("name", String(256), nullable=False, comment="as the driver spells it"),
    Column("kind", String(16), nullable=False, comment="gpu, mig or cpu"),
    Column("parent", String(128), nullable=False, comment="GPU that a MIG instance is a slice of"),
    Column("pod", String(512), nullable=False, comment="namespace/pod that had it last"),
    Column("read_id", BigInteger, nullable=False, comment="the last record of samples that is in here"),
)

seals = Table(
    "seals",
    metadata,
    Column("number", _Id, primary_key=True, autoincrement=False),
    Column("table_name", String(32), nullable=False, comment="whose rows may be deleted, or are"),
    Column("period", String(7), nullable=False, comment="that the rows were posted in, or that the boot ended in"),
    Column("boot", String(128), nullable=False, comment="whose rows; empty: all of the period"),
    Column("rows", BigInteger, nullable=False),
    Column("sums", Text, nullable=False, comment="JSON: what the rows added to the tables of sums"),
    Column("digest", String(64), nullable=False, comment="SHA-256 over the rows; of records, their evidence"),
    Column("pruned_ns", BigInteger, nullable=False, comment="UTC"),
    Column("sha256", String(64), nullable=False, comment="over this row and the one before"),
    UniqueConstraint("table_name", "period", "boot"),
)

erasures = Table(
    "erasures",
    metadata,
    Column("number", _Id, primary_key=True, autoincrement=False),
    Column("at_ns", BigInteger, nullable=False, comment="UTC"),
    Column("records", BigInteger, nullable=False, comment="whose user was removed; never who it was"),
    Column("sha256", String(64), nullable=False, comment="over this row and the one before"),
)
