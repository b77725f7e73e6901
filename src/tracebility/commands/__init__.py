"""One file per command, or group of commands: its ``app``, which `tracebility.cli` imports when the command is used.

A file opens stores through `tracebility.commands.stores` only.
"""
