"""deploy/prometheus and deploy/grafana against a real Prometheus that scrapes two servers, a sound and a sick one."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.pb.convserve.classification.v1 import classification_pb2
from tests.deploy.conftest import DEPLOY, ROOT, check, free_ports, program, running
from tests.deploy.sick import LONGEST_QUEUE, Sick, sick_repository
from tests.integration.harness import ADD_SUB, DEADLINE_SECONDS, MODELS, ServerProcess, eventually, http_get

RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
UNIT_TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yml"))
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "convserve.json"
ADAPTER = DEPLOY / "kubernetes" / "overlays" / "monitoring" / "prometheus-adapter-values.yaml"
WINDOW = "20s"
NOT_HERE = {
    "ConvserveNobodyServes": "nobody may serve, so it is looked at last",
    "ConvserveDrainsTooLong": "a server is told to stop after everything else",
    "ConvserveConfidenceDropped": "compares with the day before: deploy/prometheus/tests/drift.yml",
}


def rules(kind: str) -> dict[str, str]:
    """Return the expressions of all alerts (``alert``) or recorded series (``record``)."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return {rule[kind]: rule["expr"] for group in groups for rule in group["rules"] if kind in rule}


def panels() -> list[tuple[str, str]]:
    """Return title and expression of every query of the dashboard."""
    dashboard = json.loads(DASHBOARD.read_text())
    return [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", ())]


def test_every_alert_is_tested_and_explained():
    alerts = set(rules("alert"))
    tested = {
        case["alertname"]
        for path in UNIT_TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test.get("alert_rule_test", ())
        if case["exp_alerts"]
    }
    assert tested == alerts
    explained = set(re.findall(r"^\| `(Convserve\w+)`", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE))
    assert explained == alerts


def test_the_dashboard_is_of_one_piece():
    dashboard = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells), "panels overlap"
    assert max(x for x, _ in cells) < 24
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/convserve.yaml").read_text())["providers"][0]
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"][0]
    assert dashboard["templating"]["list"][0]["current"]["value"] == source["uid"]
    volumes = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in volumes


@pytest.mark.deploy
def test_configuration_and_rules_are_valid_and_pass_their_unit_tests():
    promtool = program("promtool")
    check(promtool, "check", "config", *DEPLOY.glob("prometheus/*.yml"))
    check(promtool, "check", "rules", *RULES)
    check(promtool, "test", "rules", *UNIT_TESTS)


class Prometheus:
    """A running one."""

    def __init__(self, port: int) -> None:
        self._port = port

    def query(self, expression: str) -> list[dict[str, Any]]:
        status, body = http_get(self._port, "/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        answer = json.loads(body)
        assert status == 200, f"{expression}: {answer}"
        result = answer["data"]["result"]
        return [sample for sample in result if sample["value"][1] != "NaN"]

    def exemplars(self, series: str) -> list[dict[str, Any]]:
        asked = {"query": series, "start": "0", "end": str(time.time() + 60)}
        _, body = http_get(self._port, "/api/v1/query_exemplars?" + urllib.parse.urlencode(asked))
        return [exemplar for found in json.loads(body)["data"] for exemplar in found["exemplars"]]

    def ready(self) -> bool:
        try:
            return http_get(self._port, "/-/ready")[0] == 200
        except OSError:
            return False


@contextmanager
def prometheus(targets: list[str], folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus with the configuration as it stands but for targets and pace."""
    binary = program("prometheus")
    source = DEPLOY / "prometheus"
    config = yaml.safe_load((source / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(source / pattern) for pattern in config["rule_files"]]
    (scrape,) = config["scrape_configs"]
    del scrape["dns_sd_configs"]
    scrape["static_configs"] = [{"targets": targets}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    with (folder / "prometheus.log").open("wb") as log:
        flags = [f"--config.file={path}", f"--storage.tsdb.path={folder / 'data'}", "--log.level=warn"]
        flags.append("--enable-feature=exemplar-storage")
        with running((binary, *flags, f"--web.listen-address=127.0.0.1:{port}"), log) as process:
            running_one = Prometheus(port)

            def ready() -> bool:
                assert process.poll() is None, (folder / "prometheus.log").read_text()
                return running_one.ready()

            eventually(ready, "Prometheus is ready")
            yield running_one


@contextmanager
def traffic(server: ServerProcess) -> Iterator[None]:
    """Classify sentences and pictures on the sound server."""
    stop = threading.Event()
    picture = (ROOT / "examples" / "pictures" / "digit-7.png").read_bytes()
    images = classification_pb2.ClassifyImagesRequest(model_name="lenet5-mnist", images=[picture] * 3)
    words = ["A fine film.", "The plot is as thin as the jokes, and both are too long by half."]
    sentences = classification_pb2.ClassifySentencesRequest(model_name="textcnn-mr", sentences=words)

    def call() -> None:
        while not stop.is_set():
            server.client.classification.ClassifyImages(images, timeout=60)
            server.client.classification.ClassifySentences(sentences, timeout=60)
            stop.wait(0.02)  # the machine is others' too

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def missing(queries: dict[str, str], ask: Callable[[str], list[Any]]) -> list[str]:
    """Return the names of the queries that give nothing."""
    return [name for name, expression in queries.items() if not ask(expression)]


def of_dashboard() -> dict[str, str]:
    """Return the dashboard's queries as Grafana sends them, all chosen."""
    return {
        f"{title}: {expression}": expression.replace("$__rate_interval", WINDOW)
        .replace("$instance", ".*")
        .replace("$model", ".*")
        for title, expression in panels()
    }


def of_adapter() -> dict[str, str]:
    """Return the queries of the Prometheus adapter as it fills them in."""
    entries = yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]
    return {
        entry["name"]["as"]: entry["metricsQuery"]
        .replace("<<.LabelMatchers>>", 'job="convserve"')
        .replace("<<.GroupBy>>", "instance")
        .replace("[2m]", f"[{WINDOW}]")
        for entry in entries
    }


@pytest.mark.deploy
def test_every_query_finds_data_and_every_alert_its_case(tmp_path: Path):
    program("prometheus")
    promtool = program("promtool")
    sick_flags = ["--device", "auto", "--instances", "1", "--max-batch-size", "1"]
    sick_flags += ["--max-queued-requests", str(LONGEST_QUEUE), "--lame-duck-seconds", "300"]
    with ExitStack() as stack:
        servers = stack.enter_context(ExitStack())
        sound = servers.enter_context(ServerProcess(MODELS, "native", "--device", "cpu"))
        repository = sick_repository(tmp_path / "repository")
        sick_server = servers.enter_context(ServerProcess(repository, "native", *sick_flags, wait_ready=False))
        sick = Sick(sick_server)
        servers.callback(sick.close)
        sick.enqueue(14)
        (nobody,) = free_ports(1)
        sound_target, sick_target = (f"127.0.0.1:{server.http_port}" for server in (sound, sick_server))
        watching = stack.enter_context(prometheus([sound_target, sick_target, f"127.0.0.1:{nobody}"], tmp_path))
        servers.enter_context(traffic(sound))
        depth = f'convserve_queue_depth{{instance="{sick_target}", model="loop"}}'
        eventually(lambda: watching.query(depth), "the first scrape")
        sick.enqueue(10)

        for server in (sound, sick_server):
            check(promtool, "check", "metrics", stdin=server.get("/metrics")[1])

        alerts = {name: expression for name, expression in rules("alert").items() if name not in NOT_HERE}
        growing = alerts["ConvserveQueueGrowing"]  # compares minutes; here scrapes are a second apart
        alerts["ConvserveQueueGrowing"] = growing.replace("[55s]", "[9s]").replace("1m", "10s")
        queries = {**of_dashboard(), **of_adapter(), **{name: name for name in rules("record")}, **alerts}
        left: list[str] = []

        def all_found() -> bool:
            sick.misbehave()
            nonlocal left
            left = missing(queries, watching.query)
            return not left

        try:
            eventually(all_found, "every query finds data")
        finally:
            assert not left, "\n".join(left)

        rows = [
            sample
            for name, query in queries.items()
            if name.startswith("Batch size")
            for sample in watching.query(query)
        ]
        assert min(float(sample["value"][1]) for sample in rows) >= 1  # no batch has nine tenths of a row

        def blames_the_sound() -> list[str]:
            said = {name: watching.query(query) for name, query in alerts.items() if "Objective" not in name}
            samples = [(name, sample["metric"]) for name, found in said.items() for sample in found]
            models = {"lenet5-mnist", "textcnn-mr"}
            return [
                f"{name} {labels}"
                for name, labels in samples
                if labels.get("instance") == sound_target or labels.get("model") in models
            ]

        # A busy machine may miss a scrape, which does not last, or the objective.
        eventually(lambda: not blames_the_sound(), "nothing is said against the sound server")
        sick_server.signal(signal.SIGTERM)
        eventually(lambda: watching.query(rules("alert")["ConvserveDrainsTooLong"]), "a drain is seen while it lasts")
        servers.close()
        eventually(lambda: watching.query(rules("alert")["ConvserveNobodyServes"]), "nobody serves")


@pytest.mark.deploy
def test_prometheus_keeps_the_trace_of_a_call(tmp_path: Path, small_repository: Path):
    """It asks for OpenMetrics by itself; nobody collects the traces here."""
    pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
    program("prometheus")
    promtool = program("promtool")
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    (nobody,) = free_ports(1)
    with ExitStack() as stack:
        flags = ["--otlp-endpoint", f"http://127.0.0.1:{nobody}"]
        server = stack.enter_context(ServerProcess(small_repository, "native", *flags))
        watching = stack.enter_context(prometheus([f"127.0.0.1:{server.http_port}"], tmp_path))
        server.client.infer(ADD_SUB, metadata=[("traceparent", f"00-{trace_id}-00f067aa0ba902b7-01")])
        series = "convserve_request_duration_seconds_bucket"
        (found, *_) = eventually(lambda: watching.exemplars(series), "an exemplar")
        assert found["labels"] == {"trace_id": trace_id}
        assert 0 < float(found["value"]) < DEADLINE_SECONDS
        check(promtool, "check", "metrics", stdin=server.get("/metrics")[1])
