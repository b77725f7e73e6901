"""A protocol is one record: found by method and path however they are spelled, answered in its own encoding."""

import json
from dataclasses import replace
from typing import Any

import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from tracebility.errors import Overloaded, QuotaExceeded, RateLimited, Unauthenticated
from tracebility.wire import otlp
from tracebility.wire.inspection import Inspection
from tracebility.wire.native_protocol import NATIVE
from tracebility.wire.otlp_protocol import OTLP
from tracebility.wire.protocol import Call, Route, Router
from tracebility.wire.protocols import PROTOCOLS, ROUTER
from tracebility.wire.rejection import ItemWarning, Rejection
from tracebility.worker.mapping import MAPPERS

MULTIPART = replace(
    NATIVE,
    source="other",
    routes=(Route("POST", "/runs"), Route("PATCH", "/runs/{id}")),
    media_types={"multipart/form-data": "multipart", "application/json": "json"},
    media_parameters=("boundary",),
)


@pytest.mark.parametrize(
    ("path", "protocol"),
    [
        ("/v1/traces", OTLP),
        ("/v1/traces/", OTLP),
        ("//v1/traces", OTLP),
        ("/v1//traces//", OTLP),
        ("/V1/Traces", OTLP),
        ("/v1/traces/v1/traces", OTLP),
        ("/v1/runs/", NATIVE),
        ("/v1/runs/x", None),
        ("/v1", None),
        ("/", None),
        ("", None),
    ],
)
def test_an_ingest_route_is_found_however_it_is_spelled(path: str, protocol: Any) -> None:
    found = ROUTER.find(path)
    assert (None if found is None else found.routes["POST"][1]) is protocol


def test_a_protocol_with_other_methods_and_parameters_is_one_more_record() -> None:
    router = Router((*PROTOCOLS, MULTIPART))
    found = router.find("//runs/7F/")
    assert found is not None
    assert (list(found.routes), found.parameters) == (["PATCH"], {"id": "7F"})
    assert found.routes["PATCH"] == (MULTIPART.routes[1], MULTIPART)
    assert router.find("/runs/7/8") is None
    with pytest.raises(ValueError, match="two protocols take POST /v1/runs"):
        Router((NATIVE, NATIVE))


@pytest.mark.parametrize(
    ("header", "content_type"),
    [
        ("application/json", "json"),
        ("Application/JSON; charset=utf-8", "json"),
        ('multipart/form-data; charset=x; boundary="a-b"', "multipart;boundary=a-b"),
        ("text/plain", None),
        ("", None),
    ],
)
def test_a_content_type_keeps_the_parameters_that_its_parser_needs(header: str, content_type: str | None) -> None:
    assert MULTIPART.content_type(header) == content_type


def test_the_worker_maps_every_protocol() -> None:
    assert {protocol.source for protocol in PROTOCOLS} == set(MAPPERS)


@pytest.mark.parametrize("encoding", ["json", "protobuf"])
@pytest.mark.parametrize(
    ("inspection", "rejected", "words"),
    [
        (Inspection(2, []), 0, ""),
        (Inspection(0, []), 0, "holds no span"),
        (Inspection(2, [], warnings=(ItemWarning("start before 1973"),)), 0, "start before 1973"),
        (Inspection(1, [Rejection(0, "bad")], warnings=(ItemWarning("w"),)), 1, "w. 1 of 2 spans were rejected: bad"),
    ],
)
def test_otlp_warns_without_rejecting(encoding: str, inspection: Inspection, rejected: int, words: str) -> None:
    answer = OTLP.answer(Call(OTLP.routes[0], encoding), inspection)
    assert answer.status == 200
    if encoding == otlp.PROTOBUF:
        partial = ExportTraceServiceResponse.FromString(answer.body).partial_success
        assert (partial.rejected_spans, bool(answer.body)) == (rejected, bool(words))
        assert words in partial.error_message
    else:
        told = json.loads(answer.body)
        assert ("partialSuccess" in told) == bool(words)
        partial = told.get("partialSuccess", {"rejectedSpans": "0", "errorMessage": ""})
        assert partial["rejectedSpans"] == str(rejected)
        assert words in partial["errorMessage"]


def test_an_otlp_error_is_in_the_encoding_of_the_request() -> None:
    limited = RateLimited("org", 5, 10, 3)
    for problem, code in ((Unauthenticated(), 16), (limited, 8), (Overloaded("x" * 300), 14)):
        answer = OTLP.answer_problem("protobuf", problem, "/v1/traces")
        status = Status.FromString(answer.body)
        assert (answer.status, answer.content_type) == (problem.status, b"application/x-protobuf")
        assert (status.code, problem.detail in status.message, problem.hint in status.message) == (code, True, True)
    assert (b"retry-after", b"3") in OTLP.answer_problem("protobuf", limited, "/v1/traces").headers
    for content_type in ("json", None):
        answer = OTLP.answer_problem(content_type, limited, "/v1/traces")
        assert answer.content_type == b"application/problem+json"
        assert json.loads(answer.body)["instance"] == "/v1/traces"
    assert QuotaExceeded.status == 402


def test_a_request_of_which_every_run_was_rejected_is_not_accepted() -> None:
    call = Call(NATIVE.routes[0], "json")
    answer = NATIVE.answer(call, Inspection(0, [Rejection(0, "kind: wrong")]))
    told = json.loads(answer.body)
    assert (answer.status, answer.content_type, told["status"]) == (422, b"application/problem+json", 422)
    assert (told["accepted"], told["rejected"]) == (0, [{"index": 0, "error": "kind: wrong"}])
    assert "kind: wrong" in told["detail"]
    mixed = NATIVE.answer(call, Inspection(1, [Rejection(0, "wrong")], warnings=(ItemWarning("unknown", 1),)))
    assert (mixed.status, json.loads(mixed.body)) == (
        202,
        {
            "accepted": 1,
            "rejected": [{"index": 0, "error": "wrong"}],
            "warnings": [{"index": 1, "warning": "unknown"}],
        },
    )
    assert json.loads(NATIVE.answer(call, Inspection(0, [])).body) == {"accepted": 0, "rejected": []}
    asked = NATIVE.answer(replace(call, query="project_id=x&project_id=y&z"), Inspection(1, []))
    assert [one["warning"] for one in json.loads(asked.body)["warnings"]] == [
        "query parameter 'project_id' is ignored", "query parameter 'z' is ignored"
    ]  # fmt: skip
