"""Alembic's entry: runs the migrations on the connection that `hub.store.engine` hands over."""

from alembic import context
from sqlalchemy import Connection

from hub.store.schema import metadata

connection = context.config.attributes.get("connection")
if not isinstance(connection, Connection):
    raise TypeError(
        "migrations run through hub.store.engine.migrate, not through alembic's command"
    )

context.configure(connection=connection, target_metadata=metadata)
context.run_migrations()
