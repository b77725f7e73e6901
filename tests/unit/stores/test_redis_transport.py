"""Commands on their way to the store."""

from hiredis import pack_command
from hypothesis import given
from hypothesis import strategies as st

from tracebility.stores.redis_transport import LARGE_BYTES, _packed

SMALL = st.binary(max_size=20) | st.text(max_size=20) | st.integers()
LARGE = st.integers(LARGE_BYTES - 2, LARGE_BYTES + 2).map(bytes)
COMMANDS = st.lists(st.lists(SMALL | LARGE, min_size=1, max_size=5).map(tuple), min_size=1, max_size=5)


@given(COMMANDS)
def test_what_is_written_is_what_the_protocol_has(commands: list[tuple[bytes | str | int, ...]]) -> None:
    assert b"".join(_packed(commands)) == b"".join(map(pack_command, commands))


def test_a_large_value_is_not_copied() -> None:
    body = bytes(100_000)
    assert any(piece is body for piece in _packed([("PING",), ("XADD", "stream", "*", "b", body), ("PING",)]))
