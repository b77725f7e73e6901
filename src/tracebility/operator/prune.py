"""Deletes rows that were needed only temporarily."""

from tracebility.stores.postgres import Postgres

PERIOD_S = 3600.0
# Processes need the changes of the last minutes; people may want to see those of a day.
TENANT_CHANGE_LIFE_S = 86_400.0
ROWS_PER_STATEMENT = 10_000


async def prune_tenant_changes(control: Postgres) -> int:
    """Delete rows of ``tenant_change`` that are older than a day, and return their number."""
    pruned = 0
    while True:
        tag = await control.execute("prune_tenant_changes", TENANT_CHANGE_LIFE_S, ROWS_PER_STATEMENT)
        gone = int(tag.rpartition(" ")[2])
        pruned += gone
        if gone < ROWS_PER_STATEMENT:
            return pruned
