"""Triggers that make a table append-only, in SQLite and PostgreSQL."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

__all__ = ["allow", "is_protected", "protect"]

_FUNCTION = "refuse_change"


def protect(connection: Connection, table: str) -> None:
    """Refuse every UPDATE and DELETE on a table from now on."""
    message = f"the {table.replace('_', ' ')} is append-only: reverse and repost"
    if connection.dialect.name == "sqlite":
        for action in ("UPDATE", "DELETE"):
            connection.execute(
                sa.text(
                    f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
                )
            )
        return
    connection.execute(
        sa.text(
            f"CREATE OR REPLACE FUNCTION {_FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the % is append-only: reverse and repost', "
            "replace(TG_ARGV[0], '_', ' ') USING ERRCODE = 'restrict_violation'; END $$"
        )
    )
    connection.execute(
        sa.text(
            f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION {_FUNCTION}('{table}')"
        )
    )


def allow(connection: Connection, table: str) -> None:
    """Take the refusal away again, for the length of a migration or a sealed prune."""
    if connection.dialect.name == "sqlite":
        for action in ("update", "delete"):
            connection.execute(sa.text(f"DROP TRIGGER IF EXISTS {table}_no_{action}"))
        return
    connection.execute(sa.text(f"DROP TRIGGER IF EXISTS {table}_no_change ON {table}"))


def is_protected(connection: Connection, table: str) -> bool:
    """Whether every UPDATE and DELETE on a table is refused."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :table"
        bodies = {row.name: row.sql for row in connection.execute(sa.text(query), {"table": table})}
        wanted = (f"{table}_no_update", f"{table}_no_delete")
        return all(f"ON {table} BEGIN SELECT RAISE(ABORT, " in bodies.get(name, "") for name in wanted)
    query = (
        "SELECT p.prosrc FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid WHERE g.tgrelid = to_regclass(:table) "
        "AND g.tgname = :name AND g.tgenabled IN ('O', 'A') AND g.tgtype = 27 AND g.tgqual IS NULL"
    )
    body = connection.execute(sa.text(query), {"table": table, "name": f"{table}_no_change"}).scalar()
    return body is not None and str(body).strip().startswith("BEGIN RAISE EXCEPTION")
