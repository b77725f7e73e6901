"""The soak: kills, partitions and resends at once, all drawn from one seed, and books that are equal at the end.

Stores and targets are two installations with a proxy on every road between them, so that a road can be closed while
something dies at either end of it. Several orgs send spans of the same ids and resend some, until each is told that it
is taken. A chapter ends when the weather has cleared: then of every org what was acknowledged, what is stored, what is
metered, what usage is served and what its quota says are the same number. The next chapter has orgs of its own.
"""

import asyncio
import json
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import asyncpg

from tracebility.quota.reconciler import QuotaReconciler
from tracebility.stores import clickhouse, postgres, redis_control
from tracebility.stores.queue import connect_queue

from .auditor import Auditor
from .installation import STORES, TARGETS, Installation
from .load import Load
from .payload import requests
from .proxy import Proxy, Road
from .resends import Resends
from .weather import Weather

ORGS = 3
CONNECTIONS = 3  # of an org
REQUESTS_PER_S = 20.0  # of an org, and what it resends
SPANS_A_REQUEST = 20
SPAN_BYTES = 800  # a day of it fits on a disk
DEADLINE_S = 5.0  # of a client: shorter than the longest recovery, so that answers are lost too
CHAPTER_S = 600.0  # what an audit reads, and what the clients remember, is bounded by it
CALM_S = (0.2, 1.5)  # between one strike and the next
PARTITION_S = (0.3, 4.0)
STALL_CHANCE = 0.3  # of a victim that hangs for a while before it dies, as behind a stalled disk
STALL_S = (0.2, 2.0)
WHOLE_CHANCE = 0.1  # of a strike in which all stores, all targets, or the supervisor of either is killed
LAST_WORD_S = 60.0  # from fine weather until every request in hand is answered
ASKING_S = 15.0  # for an answer that is no "come again"
SETTLED_S = 60.0  # from the last span until the reconciler has counted it
SLOW_S, SLOW_BYTES_PER_S = 0.05, 200_000
CUT_BYTES = (2_000, 60_000)

Say = Callable[[str], None]

_QUOTA = "SELECT coalesce(sum(used_amount), 0) FROM quota_period WHERE org_id = $1 AND meter = 'spans'"


class Failed(AssertionError):
    """What should be one number is several."""


@dataclass(frozen=True)
class Account:
    """One org at the end of a chapter; spans, each counted once, ``resent`` as often as it was."""

    org_id: str
    acknowledged: int
    stored: int
    metered: int  # in the data plane
    usage: int  # as served for invoices
    quota: int  # in the control plane
    resent: Counter[str]
    lost: int
    doubled: int
    problems: list[str]

    @property
    def is_equal(self) -> bool:
        """Whether all that should be one number is, and the books balance."""
        return {self.acknowledged, self.stored, self.metered, self.usage, self.quota} == {self.stored} and not (
            self.problems
        )


@dataclass
class Report:
    """What was done, and what came of it."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    partitions: Counter[str] = field(default_factory=Counter)
    accounts: list[Account] = field(default_factory=list)

    def __str__(self) -> str:
        names = ("acknowledged", "stored", "metered", "usage", "quota", "resent", "regrouped", "lost", "doubled")
        lines = [f"{'org':36} " + " ".join(f"{name:>12}" for name in names) + "  books"]
        for one in self.accounts:
            numbers = (
                *(one.acknowledged, one.stored, one.metered, one.usage, one.quota),
                *(one.resent["same"], one.resent["regrouped"], one.lost, one.doubled),
            )
            books = "equal" if one.is_equal else "; ".join(["NOT EQUAL", *one.problems])
            lines.append(f"{one.org_id:36} " + " ".join(f"{number:>12,}" for number in numbers) + f"  {books}")
        lines += [_counted("kills", self.kills), _counted("partitions", self.partitions), f"seed {self.seed}"]
        return "\n".join(lines)


@dataclass(frozen=True)
class Org:
    """A tenant of one chapter, its clients, and what they resend."""

    org_id: str
    load: Load
    resends: Resends


class Soak:
    """A soak over ``stores`` and the targets of ``weather``."""

    def __init__(self, stores: Installation, weather: Weather, seed: int, say: Say) -> None:
        self._stores = stores
        self._weather = weather
        self._seed = seed
        self._say = say
        self._began = time.monotonic()
        self._asked_to_stop = asyncio.Event()
        self.report = Report(seed)

    async def run(self, seconds: float) -> Report:
        """Rage for ``seconds``. Ctrl-C ends the storm early: what was sent until then is audited all the same.

        Raises:
            Failed: at the end of the first chapter in which an org's numbers differ.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._stop_early)
        try:
            chapter = 0
            while (left_s := seconds - (time.monotonic() - self._began)) > 0 and not self._asked_to_stop.is_set():
                await self._chapter(chapter, min(left_s, CHAPTER_S))
                chapter += 1
        finally:
            loop.remove_signal_handler(signal.SIGINT)
        return self.report

    def _stop_early(self) -> None:
        self._tell("stopping; what was sent is audited first. Ctrl-C again to leave at once")
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        self._asked_to_stop.set()

    async def _chapter(self, number: int, seconds: float) -> None:
        chance = random.Random(f"{self._seed}/{number}")
        orgs = [await self._new_org(f"soak {number}/{place}", chance) for place in range(ORGS)]
        sending = [asyncio.create_task(org.load.run()) for org in orgs]
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end and not self._asked_to_stop.is_set():
                await asyncio.sleep(chance.uniform(*CALM_S))
                what = await self._strike(chance)
                taken = sum(org.load.acknowledged for org in orgs)
                self._tell(f"{what}; {taken:,} spans acknowledged, {max(0.0, end - time.monotonic()):.0f} s to go")
            for org in orgs:
                org.load.stop(to_the_end=True)
            async with asyncio.timeout(LAST_WORD_S):
                await asyncio.gather(*sending)
        finally:
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
        await self._audit(orgs)

    async def _new_org(self, name: str, chance: random.Random) -> Org:
        made = await asyncio.to_thread(self._ask, "/v1/admin/orgs", {"name": name, "plan": "internal"})
        resends = Resends(chance.randrange(1 << 30))
        load = Load(
            self._weather.targets.ready["url"], {"authorization": f"Bearer {made['api_key']}"},
            requests(2 * CONNECTIONS, tenant=made["org_id"], spans=SPANS_A_REQUEST, span_bytes=SPAN_BYTES),
            connections=CONNECTIONS, requests_per_s=REQUESTS_PER_S, retry=True, deadline_s=DEADLINE_S,
            seed=self._seed, resends=resends,
        )  # fmt: skip
        return Org(made["org_id"], load, resends)

    # -- what is done to them -----------------------------------------------------------------------------------------

    async def _strike(self, chance: random.Random) -> str:
        """Kills, a partition, or both at once, until everything is up again and every road is clear."""
        if chance.random() < WHOLE_CHANCE:
            return await self._strike_whole(chance)
        shape = chance.choice(("kill", "partition", "both", "both"))
        strikes: list[Awaitable[str]] = []
        if shape != "kill":
            strikes.append(self._partition(chance))
        if shape != "partition":
            strikes.append(self._kill(chance))
        said = await asyncio.gather(*strikes)
        await self._weather.targets.recovered({})
        return ", ".join(said)

    async def _strike_whole(self, chance: random.Random) -> str:
        name, victim = chance.choice((("stores", self._stores), ("targets", self._weather.targets)))
        if chance.random() < 0.5:
            what = f"all {name}"
            victim.kill_everything()
        else:
            what = f"supervisor of {name}"
            await victim.kill_supervisor()
        self.report.kills[what] += 1
        await asyncio.sleep(chance.uniform(0, 1))
        await victim.start()
        await self._weather.targets.recovered({})
        return f"killed {what}"

    async def _partition(self, chance: random.Random) -> str:
        """Bad weather on one road."""
        name, kind = chance.choice(STORES), chance.choice(("closed", "blackhole", "half-open", "slow", "cut"))
        seconds = chance.uniform(*PARTITION_S)
        road = self._weather.proxies[name]
        _close(road, kind, chance)
        try:
            await asyncio.sleep(seconds)
        finally:
            road.cut_after_bytes = 0
            road.clear()
        self.report.partitions[f"{name} {kind}"] += 1
        return f"{name} {kind} for {seconds:.1f} s"

    async def _kill(self, chance: random.Random) -> str:
        names = chance.sample((*TARGETS, *STORES), chance.choice((1, 1, 2, 3)))
        hit: dict[str, int] = {}
        for name in names:
            victim = self._home_of(name)
            if chance.random() < STALL_CHANCE:
                victim.halt(name)
                await asyncio.sleep(chance.uniform(*STALL_S))
            hit |= victim.kill(name)
            self.report.kills[name] += 1
            await asyncio.sleep(chance.choice((0.0, chance.uniform(0, 0.5))))
        await self._stores.recovered({name: pid for name, pid in hit.items() if name in STORES})
        await self._weather.targets.recovered({name: pid for name, pid in hit.items() if name in TARGETS})
        return f"killed {'+'.join(names)}"

    def _home_of(self, name: str) -> Installation:
        return self._stores if name in STORES else self._weather.targets

    # -- what came of it ----------------------------------------------------------------------------------------------

    async def _audit(self, orgs: Sequence[Org]) -> None:
        auditor = Auditor(self._stores.ready, self._weather.spool)
        for org in orgs:
            await auditor.settle(org.load.ledger, org_id=org.org_id)
        await self._reconciled(time.time())
        accounts = [await self._account(auditor, org) for org in orgs]
        self.report.accounts += accounts
        self._tell(f"audited {len(accounts)} orgs, {sum(one.stored for one in accounts):,} spans")
        if not all(one.is_equal for one in accounts):
            raise Failed(f"\n{self.report}\n{self._weather.targets.last_lines()}")

    async def _reconciled(self, end: float) -> None:
        """Tick as the operator does, until what was accepted before ``end``, in seconds since 1970, is settled."""
        ready = self._stores.ready
        control, engine = await postgres.connect(ready["pg_dsn"]), await clickhouse.connect(ready["clickhouse_url"])
        queue, hot_store = await connect_queue(ready["redis_url"]), await redis_control.connect(ready["redis_url"])
        try:
            reconciler = QuotaReconciler(control, engine, queue, hot_store)
            async with asyncio.timeout(SETTLED_S):
                while datetime.fromisoformat((await reconciler.tick()).watermark).timestamp() < end:  # noqa: ASYNC110
                    await asyncio.sleep(0.5)
        finally:
            for store in (control, engine, queue, hot_store):
                await store.close()

    async def _account(self, auditor: Auditor, org: Org) -> Account:
        verdict = await auditor.audit(org.load.ledger, org_id=org.org_id, tenant=org.org_id)
        books = await asyncio.to_thread(self._ask, f"/v1/admin/orgs/{org.org_id}/ledger")
        problems = list(verdict.problems)
        if not books["balanced"] or books["in_flight"] or books["dead"] or books["dropped"]:
            problems.append(f"the books: {books}")
        if books["distinct"] != verdict.stored:
            problems.append(f"the books have {books['distinct']:,} distinct spans")
        if verdict.unknown or verdict.refused:
            problems.append(f"{verdict.unknown:,} spans of unknown fate, {verdict.refused:,} refused: not all was told")
        return Account(
            org.org_id, verdict.acknowledged, verdict.stored, verdict.metered,
            await asyncio.to_thread(self._usage, org.org_id), await self._quota(org.org_id),
            org.resends.spans, verdict.lost, verdict.doubled, problems,
        )  # fmt: skip

    def _usage(self, org_id: str) -> int:
        """Spans, as ``GET /v1/admin/orgs/{id}/usage`` serves them for a bill."""
        now = datetime.now(UTC)
        first, end = (quote((now + timedelta(hours=hours)).isoformat()) for hours in (-48, 2))
        items = self._ask(f"/v1/admin/orgs/{org_id}/usage?from={first}&to={end}")["items"]
        return sum(item["quantity"] for item in items if item["meter"] == "spans")

    async def _quota(self, org_id: str) -> int:
        connection = await asyncpg.connect(self._stores.ready["pg_dsn"])
        try:
            return int(await connection.fetchval(_QUOTA, org_id))
        finally:
            await connection.close()

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        ready = self._weather.targets.ready
        headers = {"authorization": f"Bearer {ready['operator_key']}", "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        end = time.monotonic() + ASKING_S
        while True:
            try:
                with urlopen(Request(ready["url"] + path, data, headers), timeout=30) as answer:
                    return json.load(answer)
            except HTTPError as refusal:
                # A connection that the weather broke is found to be so by whoever uses it first.
                wait_s = refusal.headers.get("retry-after")
                if wait_s is None or time.monotonic() >= end:
                    raise Failed(f"{path}: {refusal.code} {refusal.read().decode()}") from refusal
                time.sleep(int(wait_s))

    def _tell(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._began:7.1f} s  {text}")


async def soak(folder: Path, seconds: float, seed: int, say: Say) -> Report:
    """Start stores and targets in ``folder``, and soak them.

    Raises:
        Failed: when an org's numbers differ.
    """
    async with Installation(folder / "stores", "--only-stores") as stores, Weather(stores.ready, folder) as weather:
        return await Soak(stores, weather, seed, say).run(seconds)


def _close(road: Proxy, kind: str, chance: random.Random) -> None:
    if kind == "slow":
        road.latency_s, road.bytes_per_s = SLOW_S, SLOW_BYTES_PER_S
    elif kind == "cut":
        road.cut_after_bytes = chance.randint(*CUT_BYTES)
    else:
        road.road = Road(kind)
        if chance.random() < 0.5 or road.road is Road.CLOSED:
            road.reset()


def _counted(what: str, counts: Counter[str]) -> str:
    named = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f"{counts.total()} {what}: {named}"
