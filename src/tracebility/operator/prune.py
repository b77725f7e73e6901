"""Sweeps out what was only needed for a while."""

from tracebility.stores.postgres import Postgres

PERIOD_S = 3600.0
# Processes ask for the changes of the last two minutes; people may want to see those of a day.
TENANT_CHANGE_LIFE_S = 86_400.0
ROWS_A_STATEMENT = 10_000


async def prune_tenant_changes(control: Postgres) -> int:
    """Delete rows of ``tenant_change`` that are older than a day; how many."""
    pruned = 0
    while True:
        tag = await control.execute("prune_tenant_changes", TENANT_CHANGE_LIFE_S, ROWS_A_STATEMENT)
        gone = int(tag.rpartition(" ")[2])
        pruned += gone
        if gone < ROWS_A_STATEMENT:
            return pruned
