"""Metrics of several targets are one valid exposition."""

from prometheus_client.parser import text_string_to_metric_families

from tracebility.ingest.target_metrics import merged, sockets_of
from tracebility.telemetry import Metrics


def exposition(requests: int, *extra: str) -> bytes:
    metrics = Metrics()
    metrics.counter("tracebility_requests", "Requests.").inc(requests)
    metrics.gauge("tracebility_seen", "By target.", ("target",)).labels("own").set(1)
    for name in extra:
        metrics.gauge(name, "A { brace.", ("kind",)).labels("a b}").set(2)
    return metrics.exposition()


def test_families_are_declared_once_and_samples_say_their_target() -> None:
    text = merged(exposition(1), {"operator": exposition(2, "tracebility_leads"), "gone": b""}).decode()
    declared = [line for line in text.splitlines() if line.startswith("# TYPE ")]
    assert len(declared) == len(set(declared))
    samples = {
        (sample.name, sample.labels.get("target", ""), sample.labels.get("kind", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["tracebility_requests_total", "", ""] == 1
    assert samples["tracebility_requests_total", "operator", ""] == 2
    assert samples["tracebility_leads", "operator", "a b}"] == 2
    assert samples["tracebility_seen", "own", ""] == 1


def test_sockets_are_named() -> None:
    assert sockets_of("") == {}
    assert sockets_of("api=/run/api.sock,operator=/run/o.sock") == {"api": "/run/api.sock", "operator": "/run/o.sock"}
