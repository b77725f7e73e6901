"""Which table gets which row policy: each that names an org shows an org its rows, every other only the owner.

The engine reads policies from a file when it starts and never again, so a change of tables that changes them means
starting the engine again, in this process. Until that is done, no session that a policy must bind runs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tracebility_engine.engine import Engine
from tracebility_engine.settings import DATABASE

# The engine's file is XML, where a table's name is an element's.
_NAMEABLE = re.compile(r"[A-Za-z_][\w-]*")
_QUESTION = f"""
SELECT t.name, max(c.name = 'org_id') FROM system.tables AS t
LEFT JOIN system.columns AS c ON c.database = t.database AND c.table = t.name
WHERE t.database = '{DATABASE}' AND NOT t.is_temporary AND t.engine NOT IN ('View') GROUP BY t.name ORDER BY t.name
"""  # noqa: S608 - a constant


@dataclass(frozen=True, slots=True)
class Policies:
    """Whether the rows of each table have an org."""

    tables: Mapping[str, bool] = field(default_factory=dict)

    def filters(self, owner_pass: str) -> dict[str, str]:
        """The filter of each table's policy."""
        owner = f"getSetting('log_comment') = '{owner_pass}'"
        tenant = f"org_id = toUUIDOrZero(getSetting('log_comment')) OR {owner}"
        return {table: tenant if has_org else owner for table, has_org in self.tables.items()}

    def breaks(self, wanted: "Policies") -> bool:
        """Whether even the owner cannot read a table now: its policy names a column that it lost."""
        return any(has_org and not wanted.tables.get(table, True) for table, has_org in self.tables.items())

    def covers(self, wanted: "Policies") -> bool:
        """Whether every table that is there has the policy it should have."""
        return all(self.tables.get(table) == has_org for table, has_org in wanted.tables.items())


def wanted(engine: Engine) -> Policies:
    """The policies that the present tables need."""
    rows = engine.ask(_QUESTION)
    return Policies({name: has_org == "1" for name, has_org in rows if _NAMEABLE.fullmatch(name)})
