"""Random ``kill -9`` under load: each round draws victims and moments from a printed seed, recovers, and is audited."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from .auditor import Auditor, Verdict
from .installation import STORES, TARGETS, Installation
from .load import Load
from .payload import requests

TENANT = "the first tenant"
CONNECTIONS = 6
REQUESTS_PER_S = 120
SPANS_A_REQUEST = 20
DEADLINE_S = 5.0  # of a client: shorter than the longest recovery, so that answers are lost too
CALM_S = (0.2, 1.2)  # load before the first kill, and between kills of one round
STALL_CHANCE = 0.3  # of a victim that hangs for a while before it dies, as behind a stalled disk
STALL_S = (0.2, 2.5)
WHOLE_CHANCE = 0.2  # of a round in which everything, or the supervisor alone, is killed


@dataclass(frozen=True)
class Round:
    """What happened in one round."""

    seed: int
    killed: str
    recovery_s: float
    verdict: Verdict

    def __str__(self) -> str:
        return f"seed {self.seed:<6} killed {self.killed:<44} back in {self.recovery_s:4.1f} s  {self.verdict}"


class Failed(AssertionError):
    """The books do not balance after a round."""


async def run(installation: Installation, count: int, seed: int, say: Callable[[str], None]) -> list[Round]:
    """``count`` rounds of random kills of a running ``installation``, with load on it from beginning to end.

    Raises:
        Failed: at the first round after which anything acknowledged is lost, or anything is stored twice.
    """
    ready = installation.ready
    pool = requests(4 * CONNECTIONS, tenant=TENANT, spans=SPANS_A_REQUEST, seed=seed)
    load = Load(
        ready["url"], installation.headers(), pool, connections=CONNECTIONS, requests_per_s=REQUESTS_PER_S,
        retry=False, deadline_s=DEADLINE_S, seed=seed,
    )  # fmt: skip
    auditor = Auditor(ready, installation.data_dir / "spool")
    done: list[Round] = []
    for number in range(count):
        chance = random.Random(seed + number)
        sending = asyncio.create_task(load.run())
        began = time.monotonic()
        try:
            killed, recovery_s = await _strike(installation, chance)
            await asyncio.sleep(chance.uniform(*CALM_S))
        finally:
            load.stop()
            await sending
        await auditor.settle(load.ledger, org_id=ready["org_id"])
        verdict = await auditor.audit(load.ledger, org_id=ready["org_id"], tenant=TENANT)
        done.append(Round(seed + number, killed, recovery_s, verdict))
        say(f"round {number + 1:>3} of {count}  {done[-1]}  ({time.monotonic() - began:.1f} s)")
        books = await asyncio.to_thread(installation.get, f"/v1/admin/orgs/{ready['org_id']}/ledger")
        if not books["balanced"] or books["in_flight"] or books["stored"] < verdict.acknowledged:
            raise Failed(f"the books: {books}\n{done[-1]}\nrepeat with seed {seed}\n{installation.last_lines()}")
        if verdict.problems:
            raise Failed(f"{done[-1]}\nrepeat with seed {seed}\n{installation.last_lines()}")
    say(f"total: {len(done)} rounds, {load.ledger}, {done[-1].verdict}")
    return done


async def _strike(installation: Installation, chance: random.Random) -> tuple[str, float]:
    await asyncio.sleep(chance.uniform(*CALM_S))
    if chance.random() < WHOLE_CHANCE:
        if chance.random() < 0.5:
            installation.kill_everything()
            killed = "everything"
        else:
            await installation.kill_supervisor()
            killed = "supervisor"
        return killed, await installation.start()
    names = chance.sample((*TARGETS, *STORES), chance.choice((1, 1, 2, 3)))
    hit: dict[str, int] = {}
    for name in names:
        if chance.random() < STALL_CHANCE:
            installation.halt(name)
            await asyncio.sleep(chance.uniform(*STALL_S))
        hit |= installation.kill(name)
        await asyncio.sleep(chance.choice((0.0, chance.uniform(0, 0.5))))
    return "+".join(names), await installation.recovered(hit)
