"""What alembic runs: the steps, on the connection that `upgrade` opened."""

from alembic import context

from neartime_server.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite has it too, where the driver does not commit by itself
)
with context.begin_transaction():
    context.run_migrations()
