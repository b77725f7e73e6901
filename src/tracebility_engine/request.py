"""Parses a request: user, statement, parameters and settings. An invalid part refuses the whole request."""

import hmac
import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl
from uuid import UUID, uuid4

from tracebility_engine.engine import EngineError
from tracebility_engine.server_config import READER_SETTINGS
from tracebility_engine.settings import DATABASE, OWNER, READER, FrontSettings

AUTHENTICATION_FAILED = 516
TENANT_SETTING = "SQL_tracebility_org"
NIL_TENANT = str(UUID(int=0))

# URL parameters that speak to the HTTP interface, not to the engine.
_TRANSPORT = frozenset(
    [
        "query",
        "user",
        "password",
        "database",
        "default_format",
        "query_id",
        "session_id",
        "session_timeout",
        "session_check",
        "close_session",
        "compress",
        "decompress",
        "enable_http_compression",
        "http_zlib_compression_level",
        "wait_end_of_query",
        "buffer_size",
        "stacktrace",
        "send_progress_in_http_headers",
        "http_headers_progress_interval_ms",
        "client_protocol_version",
        "quota_key",
        "role",
        "cancel_http_readonly_queries_on_client_close",
        "http_response_headers",
    ]
)
# Only this process sets these: they decide whose rows a session sees.
_OURS = frozenset({"log_comment", "readonly"})
_FIELD_NAME = re.compile(rb'name="([^"]+)"')
_MAX_SESSION_S = 3600
_DEFAULT_SESSION_S = 60


@dataclass(frozen=True, slots=True)
class Request:
    """One statement to run."""

    user: str
    query_id: str
    database: str
    query: bytes
    parameters: dict[str, str]
    settings: dict[str, str]
    default_format: str
    tenant: str | None
    readonly: int
    session_id: str
    session_s: int
    session_check: bool
    wait_end: bool
    compress_answer: bool
    url: dict[str, str] = field(repr=False)

    @property
    def is_reader(self) -> bool:
        return self.user == READER


def authenticate(headers: Mapping[str, str], url: Mapping[str, str], settings: FrontSettings) -> str:
    """Authenticate a request and return its user.

    Raises:
        EngineError: code 516, in the same words whether the user or the password is wrong.
    """
    user, password = _credentials(headers, url)
    known = {OWNER: settings.owner_password, READER: settings.reader_password}
    right = hmac.compare_digest(password.encode(), known.get(user, settings.owner_pass).encode())
    if not right or user not in known:
        raise EngineError(
            AUTHENTICATION_FAILED,
            f"Code: {AUTHENTICATION_FAILED}. DB::Exception: {user}: Authentication failed: password is incorrect, "
            "or there is no user with such name. (AUTHENTICATION_FAILED)",
        )
    return user


def read(
    method: str,
    url: Iterable[tuple[str, str]],
    headers: Mapping[str, str],
    form: Mapping[str, str],
    user: str,
) -> Request:
    """Make the request of its parts. Of a parameter named twice the last counts, but two tenants are refused.

    Raises:
        EngineError: what the interface does not serve, or a setting the user may not change.
    """
    pairs = list(url) + list(form.items())
    values = dict(pairs)
    tenants = [value for name, value in pairs if name == TENANT_SETTING]
    settings = {
        name: value
        for name, value in values.items()
        if name not in _TRANSPORT and not name.startswith("param_") and name != TENANT_SETTING
    }
    reader = user == READER
    database = values.get("database") or headers.get("x-clickhouse-database") or DATABASE
    if reader and database != DATABASE:
        raise EngineError(497, f"Code: 497. DB::Exception: {user}: Not enough privileges. (ACCESS_DENIED)")
    readonly = _readonly(settings.pop("readonly", "0"), reader, method)
    _check_settings(settings, values, reader)
    return Request(
        user=user,
        query_id=values.get("query_id") or str(uuid4()),
        database=database,
        query=values.get("query", "").encode("utf-8", "surrogateescape"),
        parameters={name.removeprefix("param_"): value for name, value in values.items() if name.startswith("param_")},
        settings=settings,
        default_format=values.get("default_format") or headers.get("x-clickhouse-format") or "TabSeparated",
        tenant=_tenant(tenants, reader),
        readonly=readonly,
        session_id=values.get("session_id", ""),
        session_s=_session_timeout(values.get("session_timeout", "")),
        session_check=values.get("session_check") == "1",
        wait_end=values.get("wait_end_of_query") in {"1", "true"},
        compress_answer=values.get("enable_http_compression", "1") not in {"0", "false"},
        url=values,
    )


def query_parameters(query_string: bytes) -> list[tuple[str, str]]:
    """The pairs of a query string, in order."""
    return parse_qsl(query_string.decode("ascii", "surrogateescape"), keep_blank_values=True, errors="surrogateescape")


def form_fields(content_type: str, body: bytes) -> dict[str, str]:
    """The fields of a form: statement and parameters that were too long for the URL.

    Raises:
        EngineError: a file among them; external tables are not served.
    """
    boundary = content_type.partition("boundary=")[2].strip().strip('"').encode()
    fields: dict[str, str] = {}
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, value = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        found = _FIELD_NAME.search(head)
        if found is None or b"filename=" in head:
            raise EngineError(48, "Code: 48. DB::Exception: External tables are not served. (NOT_IMPLEMENTED)")
        fields[found[1].decode()] = value.removesuffix(b"\r\n").decode("utf-8", "surrogateescape")
    return fields


def is_form(content_type: str) -> bool:
    """Whether a body is a form, not a statement or data. URL-encoded ones are not: curl says that of every body."""
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


def _credentials(headers: Mapping[str, str], url: Mapping[str, str]) -> tuple[str, str]:
    if "x-clickhouse-user" in headers or "x-clickhouse-key" in headers:
        user, key = headers.get("x-clickhouse-user", "default"), headers.get("x-clickhouse-key", "")
        return _as_sent(user), _as_sent(key)
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = b64decode(token.strip(), validate=True).decode().partition(":")
        except (Base64Error, UnicodeDecodeError):
            return "", ""
        return user, password
    return url.get("user", "default"), url.get("password", "")


def _as_sent(header: str) -> str:
    """A header's text; clients send UTF-8 where HTTP says latin-1."""
    return header.encode("latin-1").decode("utf-8", "replace")


def _tenant(named: list[str], reader: bool) -> str | None:
    """The org whose rows are visible. None (owner only) shows all rows; a value that is no UUID shows none."""
    if not named:
        return NIL_TENANT if reader else None
    if len(set(named)) > 1:
        raise _refused(f"{TENANT_SETTING} is given twice, with different values")
    try:
        return str(UUID(named[0]))
    except ValueError:
        raise _refused(f"{TENANT_SETTING} is not the UUID of an org") from None


def _readonly(asked: str, reader: bool, method: str) -> int:
    if reader:
        return 1
    if asked not in {"0", "1", "2"}:
        raise _refused(f"readonly is {asked!r}; it is 0, 1 or 2")
    return int(asked) or (2 if method == "GET" else 0)


def _check_settings(settings: Mapping[str, str], values: Mapping[str, str], reader: bool) -> None:
    for name in settings:
        if name in _OURS or (reader and name not in READER_SETTINGS):
            raise EngineError(
                164, f"Code: 164. DB::Exception: Cannot modify '{name}' setting in readonly mode. (READONLY)"
            )
    for name in ("compress", "decompress"):
        if values.get(name) in {"1", "true"}:
            raise EngineError(
                48, f"Code: 48. DB::Exception: {name}=1 is not served; use Accept-Encoding. (NOT_IMPLEMENTED)"
            )


def _session_timeout(text: str) -> int:
    if not text:
        return _DEFAULT_SESSION_S
    if not text.isdecimal() or int(text) > _MAX_SESSION_S:
        raise _refused(f"session_timeout is {text!r}; it is at most {_MAX_SESSION_S} seconds")
    return int(text)


def _refused(text: str) -> EngineError:
    return EngineError(36, f"Code: 36. DB::Exception: {text}. (BAD_ARGUMENTS)")
