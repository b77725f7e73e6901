"""Lua scripts that Redis runs atomically. Each file in ``lua/`` documents its keys, arguments, result and cost."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from importlib.resources import files
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Script:
    """A script, and the SHA-1 of its text by which EVALSHA names it."""

    name: str
    text: str = field(repr=False)
    sha: str


class ControlStore(Protocol):
    """Redis in its control role. Calls are executed in order; all keys of one call must be in one cluster slot."""

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        """Run a script and return its result.

        Raises:
            StoreUnavailable: when it is unknown whether it ran.
        """

    async def command(self, *command: Any) -> Any:
        """Run one command and return its raw result.

        Raises:
            StoreUnavailable: when it is unknown whether it ran.
        """

    def put(self, key: str, value: str | bytes, life_ms: int) -> None:
        """Set ``key`` for ``life_ms`` without waiting. The write is dropped if Redis is unavailable."""


def _load(name: str, flags: str = "flags=allow-oom") -> Script:
    # Redis refuses writing scripts when memory is full, unless flagged. Full streams must not disable the limits.
    text = f"#!lua {flags}\n" + files("tracebility.tenant").joinpath("lua", f"{name}.lua").read_text("utf-8")
    return Script(name, text, sha1(text.encode(), usedforsecurity=False).hexdigest())


ADMIT, REFUND, SETTLE, SET_FIELD = map(_load, ("admit", "refund", "settle", "set_field"))
RECORD_ACCEPTED = _load("record_accepted", "flags=")  # refused when memory is full, like the XADD it belongs to
COUNTED_ENTRY, REMOVE_ENTRIES = map(_load, ("counted_entry", "remove_entries"))
# Allowed when memory is full, because the next step frees the stream entry; waiting for memory would wait for ever.
ADD_DEAD_LETTER, REMOVE_DEAD_LETTERS = map(_load, ("add_dead_letter", "remove_dead_letters"))
LEASE = _load("lease")
TOUCH, SET_FLAG, REMOVED = map(_load, ("touch", "set_flag", "removed"))
