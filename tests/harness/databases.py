"""Empty databases of a test's own in the shared stores."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from tracebility.stores import clickhouse, postgres


@dataclass(frozen=True)
class Databases:
    """An empty database in PostgreSQL and one in ClickHouse."""

    pg_dsn: str
    clickhouse_url: str

    @property
    def both(self) -> tuple[str, str]:
        return self.pg_dsn, self.clickhouse_url


@asynccontextmanager
async def empty_databases(stores: Any) -> AsyncIterator[Databases]:
    name = f"test_{uuid4().hex[:12]}"
    control, engine = await postgres.connect(stores.pg_dsn), await clickhouse.connect(stores.clickhouse_url)
    await control.execute(f"CREATE DATABASE {name}")
    await engine.execute(f"CREATE DATABASE {name} ENGINE = Atomic")
    try:
        yield Databases(
            *(urlsplit(dsn)._replace(path=f"/{name}").geturl() for dsn in (stores.pg_dsn, stores.clickhouse_url))
        )
    finally:
        await engine.execute(f"DROP DATABASE {name} SYNC")
        await control.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await engine.close()
        await control.close()
