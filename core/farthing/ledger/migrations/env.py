"""Alembic's entry point: migrates the connection that the ledger hands over."""

from alembic import context

from farthing.ledger.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
