"""Triggers that make a table append-only, in SQLite and PostgreSQL."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

__all__ = ["allow", "protect"]

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
