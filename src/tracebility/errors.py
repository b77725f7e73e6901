"""One error type per meaning. HTTP and the command line each translate them in one place.

HTTP bodies are RFC 9457 problem JSON: ``type`` (a stable code), ``title``, ``status``, ``detail`` (what and where), and
``hint`` (what to do). ``docs/errors.md`` has every code.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar

from tracebility import request_id

# Answers belong to one tenant: no cache may keep them, and a browser must not guess their type.
NOT_FOR_OTHERS = {
    "cache-control": "private, no-store",
    "vary": "Authorization",
    "x-content-type-options": "nosniff",
}


class TracebilityError(Exception):
    """The base of every error that this program raises itself."""


class ConfigurationError(TracebilityError):
    """The configuration is wrong. ``str()`` is one line that names the variable and the fix, without secrets."""


class StoreUnavailable(TracebilityError):
    """A store does not answer or refuses for now; the caller may retry. ``store`` is postgres, redis or clickhouse."""

    def __init__(self, store: str, detail: str) -> None:
        super().__init__(f"{store}: {detail}")
        self.store = store
        self.detail = detail


class Problem(TracebilityError):
    """An answer other than 2xx, as RFC 9457 defines it."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self, detail: str, *, hint: str = "", retry_after_s: int | None = None, **members: str | int | float | None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.retry_after_s = retry_after_s
        self.members = members

    def body(self, instance: str = "") -> dict[str, Any]:
        """The problem document. ``instance`` is the path of the request."""
        document: dict[str, Any] = {
            "type": f"urn:tracebility:error:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.hint:
            document["hint"] = self.hint
        if instance:
            document["instance"] = instance
        return document | self.members

    def headers(self) -> dict[str, str]:
        """The headers of the answer, ``content-type`` included."""
        headers = {"content-type": "application/problem+json"} | NOT_FOR_OTHERS
        if request_id.current():
            headers[request_id.HEADER] = request_id.current()
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        return headers


class BadRequest(Problem):
    status, code, title = 400, "bad-request", "The request cannot be read"


class Unauthenticated(Problem):
    """The key is missing, malformed, unknown, wrong, revoked or expired. One wording for all: no answer tells which."""

    status, code, title = 401, "unauthenticated", "A valid API key is required"

    def __init__(self) -> None:
        super().__init__(
            "The API key is missing or not valid.",
            hint="Send 'Authorization: Bearer tb_...' or 'x-api-key: tb_...' with a key of this installation.",
        )

    def headers(self) -> dict[str, str]:
        return super().headers() | {"www-authenticate": 'Bearer realm="tracebility"'}


class Forbidden(Problem):
    status, code, title = 403, "forbidden", "The key lacks the required scope"


class Suspended(Problem):
    """The key is valid, but its org is suspended: every request is refused until an operator resumes the org."""

    status, code, title = 403, "suspended", "This organisation is suspended"

    def __init__(self) -> None:
        super().__init__(
            "The organisation of this key is suspended. Its data is kept.",
            hint="Ask the operator of this installation to resume it.",
        )


class NotFound(Problem):
    """The id is unknown or belongs to another tenant. One wording for both."""

    status, code, title = 404, "not-found", "Not found"

    def __init__(self) -> None:
        super().__init__("Nothing is stored under this address that this key may see.")


class Taken(Problem):
    """The name is taken. Of two requests at once, one succeeds and the other gets this."""

    status, code, title = 409, "taken", "The name is taken"


class BeingDeleted(Problem):
    """The org is deleted: it cannot be changed or resumed."""

    status, code, title = 409, "being-deleted", "This organisation is deleted"

    def __init__(self) -> None:
        super().__init__(
            "This organisation is deleted or being deleted, which cannot be undone.",
            hint="GET /v1/admin/orgs/{org_id}/deletions shows the progress.",
        )


class KeyEnded(Problem):
    """A revoked or expired key cannot be rotated."""

    status, code, title = 409, "key-ended", "The key is revoked or expired"

    def __init__(self) -> None:
        super().__init__("A revoked or expired key cannot be rotated.", hint="Make a new key.")


class MovedLately(Problem):
    """The org was moved too recently: the effect of the last move is not measured yet. See ``Retry-After``."""

    status, code, title = 409, "moved-lately", "This organisation was moved recently"

    def __init__(self, moved_at: str, wait_s: int) -> None:
        super().__init__(
            f"The shards of this organisation were changed at {moved_at}. They can be changed again in {wait_s} s.",
            hint="Wait for Retry-After seconds, or send 'force': true.",
            retry_after_s=wait_s,
            moved_at=moved_at,
        )


class MethodNotAllowed(Problem):
    """The path exists, but has no route for the method. ``Allow`` names the methods that it has."""

    status, code, title = 405, "method-not-allowed", "Method not allowed"

    def __init__(self, path: str, methods: Iterable[str]) -> None:
        self._allowed = ", ".join(sorted(methods))
        super().__init__(f"{path} accepts {self._allowed}.", hint=f"Use {self._allowed}.")

    def headers(self) -> dict[str, str]:
        return super().headers() | {"allow": self._allowed}


class RequestTimeout(Problem):
    """The request is incomplete. The connection is closed, so that its late rest is not read as another request."""

    status, code, title = 408, "request-timeout", "The request did not arrive in time"

    def headers(self) -> dict[str, str]:
        return super().headers() | {"connection": "close"}


class PayloadTooLarge(Problem):
    status, code, title = 413, "payload-too-large", "The request is too large"


class UnsupportedMedia(Problem):
    status, code, title = 415, "unsupported-media", "Unsupported content type or encoding"


class Unprocessable(Problem):
    status, code, title = 422, "unprocessable", "A value in the request is not acceptable"


class AnswerTooLarge(Problem):
    """The result exists, but is larger than one answer may be. Retrying does not help."""

    status, code, title = 422, "answer-too-large", "The answer would be too large"


class HeadTooLarge(Problem):
    status, code, title = 431, "head-too-large", "The address and headers are too large"


class RateLimited(Problem):
    """The org or the key exceeds its rate. ``Retry-After`` is 1 to 5 s.

    Headers: draft-ietf-httpapi-ratelimit-headers.
    """

    status, code, title = 429, "rate-limited", "Too many requests"

    def __init__(self, which: str, requests_per_s: int, burst: int, retry_after_s: int) -> None:
        whose = "This organisation" if which == "org" else "This key"
        super().__init__(
            f"{whose} may send {requests_per_s} requests a second, with bursts of up to {burst}.",
            hint="Send the same request again after Retry-After seconds. Larger batches need fewer requests.",
            retry_after_s=retry_after_s,
            limit=requests_per_s,
            burst=burst,
        )
        self._policy = rate_policy(which, requests_per_s, burst)
        self._state = f'"{which}";r=0;t={retry_after_s}'

    def headers(self) -> dict[str, str]:
        return super().headers() | {"ratelimit-policy": self._policy, "ratelimit": self._state}


def rate_policy(which: str, requests_per_s: int, burst: int) -> str:
    """``RateLimit-Policy`` of a rate: the burst, and the seconds in which a used burst is available again."""
    return f'"{which}";q={burst};w={-(-burst // requests_per_s)}'


class QuotaExceeded(Problem):
    """A meter has no room for the whole request, so nothing of it was stored or counted."""

    status, code, title = 402, "quota-exceeded", "The quota is exceeded"

    def __init__(self, meter: str, limit: int, used: int, wanted: int, period: str, resets_at: datetime) -> None:
        super().__init__(
            f"The plan allows {limit} {meter} in {period}. {used} are used, and this request has {wanted}.",
            hint="Ask the operator of this installation for a larger plan, or wait until resets_at.",
            meter=meter,
            limit=limit,
            used=used,
            period=period,
            resets_at=resets_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        )


class Overloaded(Problem):
    """A store is unavailable or full, so nothing was stored. Always carries ``Retry-After`` (1 to 5 s)."""

    status, code, title = 503, "overloaded", "The request cannot be stored right now"

    def __init__(self, detail: str, *, hint: str = "Send the same request again after Retry-After seconds.") -> None:
        super().__init__(detail, hint=hint, retry_after_s=2)


class AuditLogTampered(Problem):
    """The number of an org's next audit event is taken: somebody wrote to its audit log past this program.

    Changes that need an audit event are refused until an operator has repaired the log.
    """

    status, code, title = 503, "trail-tampered", "The audit log was tampered with"

    def __init__(self, reason: str = "") -> None:
        """``reason`` is only logged: it names the event's number."""
        self.reason = reason
        super().__init__(
            "The audit log of this organisation was changed outside of tracebility, so changes are refused until it is "
            "repaired.",
            hint="Run 'tracebility audit verify': it lists what was changed.",
            retry_after_s=2,
        )

    def __str__(self) -> str:
        """The one line that commands print."""
        return f"{self.detail} {self.hint}"


class Unavailable(Problem):
    """A store that the answer needs is unavailable. Nothing was changed."""

    status, code, title = 503, "store-unavailable", "A store is unavailable"

    def __init__(self, detail: str, **members: str | int | float | None) -> None:
        super().__init__(
            detail, hint="Send the same request again after Retry-After seconds.", retry_after_s=2, **members
        )
