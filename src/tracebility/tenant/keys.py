"""API keys: ``tb_<public_id>_<secret>``. The secret ends in a checksum, so that a mistyped key needs no look-up.

The SHA-256 of the secret is stored. The secret has 220 random bits, so a slow password hash would add no protection.
"""

import hmac
import re
import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from zlib import crc32

from tracebility.ids import PublicKeyId

PREFIX = "tb"
PUBLIC_ID_CHARS = 12
SECRET_CHARS = 43
CHECKSUM_CHARS = 6

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FORM = re.compile(rf"{PREFIX}_([0-9A-Za-z]{{{PUBLIC_ID_CHARS}}})_([0-9A-Za-z]{{{SECRET_CHARS}}})", re.ASCII)

_PUBLIC_ID = re.compile(rf"[0-9A-Za-z]{{{PUBLIC_ID_CHARS}}}", re.ASCII)

# Compared with when the key does not exist, so that this takes as long as a wrong secret.
NO_HASH = bytes(32)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key. ``key`` is shown once and not stored."""

    public_id: PublicKeyId
    key: str = field(repr=False)
    secret_hash: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """A well-formed key from a request, not verified yet."""

    public_id: PublicKeyId
    secret_hash: bytes = field(repr=False)


def generate() -> NewKey:
    """Generate a new key."""
    public_id = _random(PUBLIC_ID_CHARS)
    unchecked = f"{PREFIX}_{public_id}_{_random(SECRET_CHARS - CHECKSUM_CHARS)}"
    key = unchecked + checksum(unchecked)
    return NewKey(PublicKeyId(public_id), key, _hash(key))


def parse(text: str) -> ParsedKey | None:
    """Parse a key; None when it is malformed or its checksum is wrong."""
    found = _FORM.fullmatch(text)
    if found is None or checksum(text[:-CHECKSUM_CHARS]) != text[-CHECKSUM_CHARS:]:
        return None
    return ParsedKey(PublicKeyId(found[1]), _hash(text))


def is_public_id(text: str) -> bool:
    """Whether ``text`` has the form of a public id."""
    return _PUBLIC_ID.fullmatch(text) is not None


def matches(parsed: ParsedKey, secret_hash: bytes) -> bool:
    """Compare the secrets in constant time."""
    return hmac.compare_digest(parsed.secret_hash, secret_hash)


def _hash(key: str) -> bytes:
    return sha256(key[-SECRET_CHARS:].encode()).digest()


def _random(count: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(count))


def checksum(unchecked: str) -> str:
    """Return the CRC-32 of ``unchecked`` as six base-62 digits."""
    upper, lowest = divmod(crc32(unchecked.encode()), len(_PAIRS))
    highest, middle = divmod(upper, len(_PAIRS))
    return _PAIRS[highest] + _PAIRS[middle] + _PAIRS[lowest]


_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
