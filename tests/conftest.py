"""Fixtures of every room: the databases that a ledger can be in."""

from tests.ledger.databases import ledger_url, new_ledger_url, postgres, server_programs

__all__ = ["ledger_url", "new_ledger_url", "postgres", "server_programs"]
