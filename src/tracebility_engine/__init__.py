"""The ClickHouse engine in a process of its own, behind ClickHouse's HTTP interface: one client serves both.

A package beside ``tracebility``, which starts it, and of which it imports nothing.
"""
