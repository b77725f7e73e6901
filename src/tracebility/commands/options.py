"""Options that mean the same in every command, and how a command prints its result."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tracebility.errors import TracebilityError

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="The installation's directory. Without it: the three DSNs in the environment, else the default directory.",
        show_default="~/.tracebility",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def new_app() -> typer.Typer:
    """What a file of commands adds its commands to."""
    return typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)


def days_of(named: str, text: str, word: str) -> int | None:
    """The number of days that ``text`` is, or None where it is ``word``; ``named`` is what it was given as.

    Raises:
        TracebilityError: when it is neither.
    """
    if text == word:
        return None
    # What has more digits than any number of days is none, and would be refused by Python itself.
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise TracebilityError(f"{named} takes a number of days, or '{word}'.")
    return int(text)


def tell(text: str, document: Mapping[str, Any] | list[Any], *, as_json: bool) -> None:
    """Print ``text`` for people, or ``document`` for programs."""
    typer.echo(json.dumps(document, default=str) if as_json else text)
