"""Changes of tenants are forgotten after a day."""

import pytest

from tracebility.operator import prune
from tracebility.stores.postgres import Postgres


async def test_changes_older_than_a_day_are_deleted_and_no_others(
    control: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "ROWS_PER_STATEMENT", 2)
    await control.execute(
        "INSERT INTO tenant_change (rev, kind, id, at) SELECT nextval('tenant_change_rev'), 'org', 'prune ' || hours, "
        "clock_timestamp() - hours * interval '1 hour' FROM unnest(ARRAY [1, 23, 25, 26, 27, 1000]) AS hours"
    )
    assert await prune.prune_tenant_changes(control) == 4
    left = await control.fetch("SELECT id FROM tenant_change WHERE id LIKE 'prune %' ORDER BY rev")
    assert [row["id"] for row in left] == ["prune 1", "prune 23"]
    assert await prune.prune_tenant_changes(control) == 0
