"""What Redis decides in one step, in Lua. Each file of ``lua/`` says what it takes, answers and costs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from importlib.resources import files
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the name that Redis knows it by, the SHA-1 of its text."""

    name: str
    text: str = field(repr=False)
    sha: str


class HotStore(Protocol):
    """Redis in its control role. What is asked later is done later; every key of a call is in one slot."""

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        """What the script answers.

        Raises:
            StoreUnavailable: when it is unknown whether it ran.
        """

    async def command(self, *command: Any) -> Any:
        """What a single command answers, raw.

        Raises:
            StoreUnavailable: when it is unknown whether it ran.
        """

    def put(self, key: str, value: str | bytes, life_ms: int) -> None:
        """Set ``key`` for a while, without waiting for it; where the store is away, not at all."""


def _load(name: str, flags: str = "flags=allow-oom") -> Script:
    # A script that writes is refused when memory is full, unless it says so: streams must not take the limits down.
    text = f"#!lua {flags}\n" + files("tracebility.tenant").joinpath("lua", f"{name}.lua").read_text("utf-8")
    return Script(name, text, sha1(text.encode(), usedforsecurity=False).hexdigest())


ADMIT, REFUND, SETTLE, SAY = map(_load, ("admit", "refund", "settle", "say"))
ENTER = _load("enter", "flags=")  # refused when its entry is
COUNT, LEAVE = map(_load, ("count", "leave"))
# What a dead letter takes its stream gives back in the next step; a worker that waited for room would wait for ever.
BURY, UNBURY = map(_load, ("bury", "unbury"))
LEASE = _load("lease")
NOTE, FLAG, REMOVED = map(_load, ("note", "flag", "removed"))
