"""Bodies inflate whole, within their bound, or are refused in words."""

import gzip
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from tracebility.errors import BadRequest, PayloadTooLarge, UnsupportedMedia
from tracebility.wire.encoding import ENCODINGS, decompress, encoding_of


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


COMPRESS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("identity", bytes),
    ("gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("zstd", zstd.compress),
]


@pytest.mark.parametrize(("encoding", "compress"), COMPRESS)
@given(data=st.binary(max_size=5000))
def test_what_was_compressed_comes_back(encoding: str, compress: Callable[[bytes], bytes], data: bytes) -> None:
    assert decompress(compress(data), encoding, 5000) == data


@pytest.mark.parametrize(("encoding", "compress"), [pair for pair in COMPRESS if pair[0] in ("gzip", "zstd")])
def test_several_members_are_one_body(encoding: str, compress: Callable[[bytes], bytes]) -> None:
    assert decompress(b"".join(map(compress, (b"one ", b"", b"two"))), encoding, 100) == b"one two"


def test_gzip_may_be_padded_with_zeros() -> None:
    assert decompress(gzip.compress(b"x") + bytes(200_000), "gzip", 100) == b"x"


@pytest.mark.parametrize(("encoding", "compress"), COMPRESS)
def test_a_bomb_is_stopped_at_the_bound(encoding: str, compress: Callable[[bytes], bytes]) -> None:
    with pytest.raises(PayloadTooLarge):
        decompress(compress(bytes(3 << 20)), encoding, 2 << 20)
    assert len(decompress(compress(bytes(2 << 20)), encoding, 2 << 20)) == 2 << 20


@pytest.mark.parametrize(("encoding", "compress"), COMPRESS[1:])
def test_a_cut_off_body_is_refused(encoding: str, compress: Callable[[bytes], bytes]) -> None:
    whole = compress(bytes(range(256)) * 50)
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        with pytest.raises(BadRequest):
            decompress(whole[:length], encoding, 1 << 20)


@pytest.mark.parametrize("encoding", ENCODINGS[1:])
@given(data=st.binary(max_size=200))
def test_any_bytes_inflate_or_are_refused(encoding: str, data: bytes) -> None:
    with suppress(BadRequest, PayloadTooLarge):
        decompress(data, encoding, 1 << 20)


def test_a_million_empty_members_end_early() -> None:
    with pytest.raises(BadRequest):
        decompress(gzip.compress(b"") * 50_000, "gzip", 1 << 20)


def test_a_frame_that_asks_for_a_huge_window_is_refused() -> None:
    options = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    body = compressor.compress(b"x" * 100) + compressor.flush()
    with pytest.raises(BadRequest, match="memory"):
        decompress(body, "zstd", 1 << 20)


@pytest.mark.parametrize(
    ("header", "encoding"), [("", "identity"), ("GZIP", "gzip"), (" x-gzip ", "gzip"), ("zstd", "zstd")]
)
def test_encodings_are_known_by_their_usual_names(header: str, encoding: str) -> None:
    assert encoding_of(header) == encoding


@pytest.mark.parametrize("header", ["br", "gzip, gzip", "gzip;q=1", "\x00"])
def test_other_encodings_are_refused_with_those_that_are_not(header: str) -> None:
    with pytest.raises(UnsupportedMedia) as refusal:
        encoding_of(header)
    assert "zstd" in refusal.value.hint
