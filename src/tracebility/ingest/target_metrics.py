"""The metrics of every target of ``tracebility up`` on the one port: this process's own, then the others' by socket.

Samples of another target carry the label ``target``, unless they have it already. One that does not answer is left out.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping

import aiohttp

ANSWER_WAIT_S = 1.0
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (.*)")


def sockets_of(setting: str) -> dict[str, str]:
    """Target name to unix socket, of ``TRACEBILITY_METRICS_SOCKETS``: ``name=path`` joined by commas."""
    pairs = (pair.partition("=") for pair in setting.split(",") if pair)
    return {name: path for name, _, path in pairs}


async def with_other_targets(own: bytes, sockets: Mapping[str, str]) -> bytes:
    """``own`` and what each of ``sockets`` answers to ``GET /metrics``, as one exposition."""
    if not sockets:
        return own
    answers = await asyncio.gather(*map(_asked, sockets.values()))
    return merged(own, dict(zip(sockets, answers, strict=True)))


def merged(own: bytes, others: Mapping[str, bytes]) -> bytes:
    """One exposition, in which each family is declared once and its samples stand together, as the format asks."""
    families: dict[str, list[str]] = {}
    for target, exposition in {"": own, **others}.items():
        for family, lines in _families(exposition.decode()):
            declared = family in families
            samples = [line for line in lines if not line.startswith("#")]
            if target:
                samples = [_labelled(sample, target) for sample in samples]
            head = [] if declared else [line for line in lines if line.startswith("#")]
            families.setdefault(family, []).extend([*head, *samples])
    return "".join(f"{line}\n" for lines in families.values() for line in lines).encode()


def _families(text: str) -> Iterator[tuple[str, list[str]]]:
    """The name of each family and its lines. A family begins with its HELP."""
    lines: list[str] = []
    name = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            if lines:
                yield name, lines
            lines, name = [], line.split(" ", 3)[2]
        lines.append(line)
    if lines:
        yield name, lines


def _labelled(sample: str, target: str) -> str:
    found = _SAMPLE.fullmatch(sample)
    if found is None or 'target="' in (found[2] or ""):
        return sample
    labels = f'target="{target}"' + (f",{found[2]}" if found[2] else "")
    return f"{found[1]}{{{labels}}} {found[3]}"


async def _asked(socket: str) -> bytes:
    timeout = aiohttp.ClientTimeout(total=ANSWER_WAIT_S)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket), timeout=timeout) as session,
            session.get("http://target/metrics") as answer,
        ):
            return await answer.read() if answer.status == 200 else b""
    except (aiohttp.ClientError, TimeoutError, OSError):
        return b""
