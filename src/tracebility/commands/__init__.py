"""One file per command group. Each has ``register(app)``, which adds its commands; ``tracebility.cli`` names them.

A file imports at its top only what is cheap (typer, ``commands.options``, errors), stores inside its functions.
"""
