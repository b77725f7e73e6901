"""Just enough of ClickHouse's lexer to know what a statement is: its verb, its format, where inline data begins.

The engine parses and decides; this only refuses what an HTTP server refuses and an engine in process would do.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tracebility_engine.engine import EngineError
from tracebility_engine.settings import READER

SYNTAX_ERROR = 62
NOT_IMPLEMENTED = 48
READONLY = 164
ACCESS_DENIED = 497
# Like max_query_size of a server: limits the statement, not the data behind it.
MAX_STATEMENT_BYTES = 1 << 20

READ_VERBS = frozenset({"SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "FROM", "("})
# Formats among those that the engine can give in chunks.
STREAMED_VERBS = frozenset({"SELECT", "WITH", "FROM", "("})

_TABLE_VERBS = frozenset({"CREATE", "DROP", "RENAME", "EXCHANGE", "ATTACH", "DETACH", "UNDROP", "REPLACE"})

# Functions that reach outside the engine's data, by any spelling: a read-only session may not name them as a call.
_OUTWARD = frozenset(
    [
        "file",
        "url",
        "s3",
        "s3cluster",
        "gcs",
        "cosn",
        "oss",
        "hdfs",
        "hdfscluster",
        "azureblobstorage",
        "remote",
        "remotesecure",
        "cluster",
        "clusterallreplicas",
        "postgresql",
        "mysql",
        "mongodb",
        "redis",
        "sqlite",
        "odbc",
        "jdbc",
        "executable",
        "python",
        "urlcluster",
        "filecluster",
        "deltalake",
        "iceberg",
        "hudi",
        "input",
        "loop",
        "mergetreeindex",
        "mergetreeprojection",
        "mergetreepartsindex",
        "mergetreeanalyzeindexes",
        "indexhint",
        "arrowflight",
        "catboostevaluate",
        "zookeeper",
        "fuzzquery",
        "paimon",
        "ytsaurus",
        "bigquery",
        "prometheusquery",
        "timeseriesdata",
        "merge",
    ]
)

_OUTWARD_PREFIXES = ("dictget", "dicthas", "dictis", "joinget")
# System tables about the engine itself, not about data in it.
_CATALOGUES = frozenset({"system", "information_schema"})
_OPEN_CATALOGUE = frozenset({"settings", "one", "numbers", "functions", "formats", "data_type_families", "time_zones"})
_CLOSED_SHOWS = frozenset({"access", "grants", "users", "policies", "processlist", "create", "roles", "profiles"})

# Around a quoted name: backticks, double quotes, and the curly ones of U+201C and U+201D.
_QUOTES = b'`"\xe2\x80\x9c\x9d'
_TOKEN = re.compile(
    rb"""(?P<space>\s+|--[^\n]*|\#[!\ ][^\n]*|/\*.*?(?:\*/|\Z))
       |(?P<text>'(?:[^'\\]|\\.|'')*'|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|\xe2\x80\x98.*?\xe2\x80\x99)
       |(?P<name>`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.|"")*"|\xe2\x80\x9c.*?\xe2\x80\x9d)
       |(?P<word>[A-Za-z_][\w$]*)
       |(?P<number>\d[\w.]*)
       |(?P<sign>.)""",
    re.VERBOSE | re.DOTALL,
)
_AFTER_FORMAT = re.compile(rb"[ \t\f]*\r?\n?")


@dataclass(frozen=True, slots=True)
class Statement:
    """What was found. ``text`` is the statement without its inline data (and, for inserts, without its FORMAT)."""

    text: bytes
    verb: str
    format: str
    # Where the data of an INSERT begins in the source; -1 when this is no insert of data.
    data_at: int = -1
    reads_only: bool = False
    # Whether it may change which tables there are, or their columns.
    changes_tables: bool = False
    # Of an INSERT of data: the table and the columns as they were written; no columns means all.
    table: bytes = b""
    columns: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: bytes
    start: int
    end: int

    def word(self) -> str:
        """The upper-case keyword this may be; empty when it cannot be one."""
        return self.text.decode().upper() if self.kind == "word" else ""


def parse(source: bytes) -> Statement:
    """Read the statement at the start of ``source``.

    Args:
        source: the statement, and for an INSERT perhaps data behind it.

    Raises:
        EngineError: empty, more than one statement, or one that an HTTP interface does not serve.
    """
    tokens = _tokens(source)
    first = next(tokens, None)
    if first is None:
        raise _refusal(SYNTAX_ERROR, "Syntax error: Empty query", "SYNTAX_ERROR")
    verb = first.word() or first.text.decode("utf-8", "replace")
    if verb == "INSERT":
        return _insert(source, tokens)
    return _other(source, verb, tokens)


def check_tenant(source: bytes) -> None:
    """Refuse a statement that names the setting which says whose rows it sees: nested ones pass the engine's own check.

    Raises:
        EngineError: it does.
    """
    for token in _tokens(source):
        if token.kind in {"word", "name"} and token.text.strip(_QUOTES).lower() == b"log_comment":
            raise _refusal(READONLY, "Cannot modify 'log_comment' setting in readonly mode", "READONLY")


def check_reader(source: bytes) -> None:
    """Refuse what ``readonly=1`` lets through although it writes, reaches outside, or tells of other tenants.

    Raises:
        EngineError: the statement is no read, or names a function or table that is not a reader's.
    """
    before = before_that = ""
    first = True
    for token in _tokens(source):
        word = token.text.strip(_QUOTES).decode("utf-8", "replace").lower() if token.kind in {"word", "name"} else ""
        if first and token.word() not in READ_VERBS and token.text != b"(":
            raise _refusal(READONLY, f"{READER}: Cannot execute query in readonly mode", "READONLY")
        if token.text == b"(" and (before in _OUTWARD or before.startswith(_OUTWARD_PREFIXES)):
            raise _denied(before)
        if before == "." and before_that in _CATALOGUES and word not in _OPEN_CATALOGUE:
            raise _denied(f"{before_that}.{word}")
        if before == ":" and word == "identifier":
            raise _denied("an identifier by parameter")
        if before == "show" and word in _CLOSED_SHOWS:
            raise _denied(f"SHOW {word.upper()}")
        first = False
        before, before_that = word or token.text.decode("utf-8", "replace"), before


def _insert(source: bytes, tokens: Iterator[_Token]) -> Statement:
    """Find where the data begins: behind VALUES, or behind FORMAT and a name. With SELECT there is none."""
    depth = 0
    previous = ""
    format_at = -1
    seen: list[_Token] = []
    for token in tokens:
        depth += _depth(token)
        word = token.word()
        seen.append(token)
        if word in {"SELECT", "WITH"}:
            return _other(source, "INSERT", tokens)
        if depth:
            continue
        if previous == "FORMAT" and token.kind == "word":
            data = _AFTER_FORMAT.match(source, token.end)
            return _insert_of(seen, source[:format_at], token.text.decode(), data.end() if data else token.end)
        if word in {"VALUES", "VALUE"}:
            return _insert_of(seen, source[: token.start], "Values", token.end)
        if previous == "FROM" and word == "INFILE":
            raise _refusal(NOT_IMPLEMENTED, "INSERT FROM INFILE is not served over HTTP", "NOT_IMPLEMENTED")
        if word == "FORMAT":
            format_at = token.start
        previous = word
    raise _refusal(SYNTAX_ERROR, "Syntax error: INSERT names neither FORMAT, VALUES nor SELECT", "SYNTAX_ERROR")


def _insert_of(seen: list[_Token], text: bytes, fmt: str, data_at: int) -> Statement:
    """An INSERT of data, from its tokens behind the verb: INTO, TABLE, a name, perhaps a list of names."""
    rest = iter(seen)
    token = next(rest)
    while token.word() in {"INTO", "TABLE"}:
        token = next(rest)
    table = token.text
    token = next(rest)
    if token.text == b".":
        table += b"." + next(rest).text
        token = next(rest)
    columns: list[bytes] = []
    if token.text == b"(":
        for token in rest:
            if token.text == b")":
                break
            if token.kind in {"word", "name"}:
                columns.append(token.text)
            elif token.text != b",":
                raise _refusal(NOT_IMPLEMENTED, "INSERT takes names of columns, no expressions", "NOT_IMPLEMENTED")
    elif token.kind == "word" and token.word() not in {"FORMAT", "VALUES", "VALUE", "SETTINGS"}:
        raise _refusal(NOT_IMPLEMENTED, "INSERT takes the name of a table, no function", "NOT_IMPLEMENTED")
    return Statement(text, "INSERT", fmt, data_at, table=table, columns=tuple(columns))


def _other(source: bytes, verb: str, tokens: Iterator[_Token]) -> Statement:
    depth = 0
    end = len(source)
    outer: list[_Token] = []
    previous = ""
    for token in tokens:
        if token.text == b";" and token.kind == "sign":
            end = token.start
            if next(tokens, None) is not None:
                raise _refusal(SYNTAX_ERROR, "Syntax error (Multi-statements are not allowed)", "SYNTAX_ERROR")
            break
        depth += _depth(token)
        word = token.word()
        if word in {"OUTFILE", "INFILE"} and previous in {"INTO", "FROM"}:
            raise _refusal(NOT_IMPLEMENTED, f"{previous} {word} is not served over HTTP", "NOT_IMPLEMENTED")
        previous = word
        if depth == 0:
            outer.append(token)
    words = {token.word() for token in outer}
    reads_only = verb in READ_VERBS and "INSERT" not in words
    changes_tables = (verb in _TABLE_VERBS and "TEMPORARY" not in words) or (verb == "ALTER" and "COLUMN" in words)
    return Statement(source[:end], verb, _format(outer), -1, reads_only, changes_tables)


def _format(outer: list[_Token]) -> str:
    """The name behind FORMAT, which only SETTINGS may follow."""
    for at in range(len(outer) - 2, -1, -1):
        if outer[at].word() == "FORMAT" and outer[at + 1].kind == "word":
            rest = outer[at + 2 :]
            return outer[at + 1].text.decode() if not rest or rest[0].word() == "SETTINGS" else ""
    return ""


def _depth(token: _Token) -> int:
    if token.kind != "sign":
        return 0
    return 1 if token.text in b"([{" else -1 if token.text in b")]}" else 0


def _tokens(source: bytes) -> Iterator[_Token]:
    position = 0
    end = min(len(source), MAX_STATEMENT_BYTES)
    while position < end:
        found = _TOKEN.match(source, position)
        if found is None:
            return
        position = found.end()
        kind = found.lastgroup or "sign"
        if kind == "tag":
            kind = "text"
        if kind != "space":
            yield _Token(kind, found[0], found.start(), position)


def _denied(what: str) -> EngineError:
    return _refusal(ACCESS_DENIED, f"{READER}: Not enough privileges for {what}", "ACCESS_DENIED")


def _refusal(code: int, text: str, name: str) -> EngineError:
    return EngineError(code, f"Code: {code}. DB::Exception: {text}. ({name})")
