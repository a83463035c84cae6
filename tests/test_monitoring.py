"""The alerts and the dashboard of a service, as Prometheus reads them, and against what is really measured.

For that a rendered service runs, with Valkey, and is smoke-tested, backed up and drilled; a Prometheus with the
rendered configuration asks it, and the exporters that the alerts count on.
"""

import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx
import pytest
import yaml
from conftest import Render
from copier import run_copy
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from pythons import NEWEST, python
from test_demo import free_port
from test_service import run
from test_service_pages import serving

SEVERITIES = {"page", "ticket"}
GROUPING = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")
SELECTOR = re.compile(r"(?<![\w:])([a-z_:][\w:]*)\s*(?:\{([^}]*)\})?(?![\w:]*\s*\()", re.IGNORECASE)
OPERATORS = {"and", "or", "unless", "bool", "offset"}


@pytest.fixture(params=["none", "valkey"])
def project(render: Render, request: pytest.FixtureRequest) -> Path:
    return render(shared_store=request.param)


def program(name: str) -> str:
    return shutil.which(name) or pytest.skip(f"there is no {name} on PATH: Debian has it in its package of that name")


def promtool(folder: Path, *arguments: str) -> str:
    command = [program("promtool"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alerts(project: Path) -> dict[str, dict[str, Any]]:
    rules = yaml.safe_load((project / "deploy" / "monitoring" / "alerts.yml").read_text())
    return {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"]}


def dashboard(project: Path) -> dict[str, Any]:
    return json.loads((project / "deploy" / "monitoring" / "dashboard.json").read_text())


def expressions(project: Path) -> list[str]:
    """Of every alert and every panel."""
    shown = dashboard(project)
    found = [rule["expr"] for rule in alerts(project).values()]
    found += [target["expr"] for panel in shown["panels"] for target in panel.get("targets", [])]
    found += [annotation["expr"] for annotation in shown["annotations"]["list"]]
    return [expression.replace("$__rate_interval", "5m") for expression in found]


def test_prometheus_takes_every_file_and_each_case_comes_out(project: Path):
    folder = project / "deploy" / "monitoring"
    promtool(folder, "check", "config", "prometheus.yml")
    assert f"{len(alerts(project))} rules found" in promtool(folder, "check", "rules", "alerts.yml")
    promtool(folder, "test", "rules", "alerts.test.yml")


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent(project: Path):
    cases = yaml.safe_load((project / "deploy" / "monitoring" / "alerts.test.yml").read_text())["tests"]
    tried: dict[str, set[str]] = {}
    for case in cases:
        name = case["name"]
        for check in case["promql_expr_test"]:
            assert check["expr"] == f'count by (severity) (ALERTS{{alertname="{name}", alertstate="firing"}})'
            severity = alerts(project)[name]["labels"]["severity"]
            fires = [{"labels": f'{{severity="{severity}"}}', "value": 1}]
            assert check.get("exp_samples", []) in ([], fires)
            tried.setdefault(name, set()).add("fires" if check.get("exp_samples") else "is silent")
    assert tried == {name: {"fires", "is silent"} for name in alerts(project)}


def test_each_alert_says_how_bad_it_is_whose_and_where_to_read_on(project: Path):
    page = (project / "docs" / "runbooks" / "alerts.md").read_text()
    sections = re.findall(r"^### (.*)$", page, re.MULTILINE)
    assert sorted(sections) == sorted(alerts(project)), "a section for each alert, and an alert for each section"
    url = "https://github.com/example-org/my-service/blob/main/docs/runbooks/alerts.md#"
    for name, rule in alerts(project).items():
        assert rule["labels"].keys() == {"severity", "owner"}
        assert rule["labels"]["severity"] in SEVERITIES
        assert rule["labels"]["owner"] == "example-org"
        assert rule["annotations"] == {
            "summary": rule["annotations"]["summary"],
            "runbook_url": url + name.lower(),
        }
        assert rule["annotations"]["summary"].endswith(".")


def test_each_alarm_of_aws_leads_to_a_section(render: Render):
    project = render(deploy_target="aws-ecs", shared_store="valkey")
    page = (project / "docs" / "runbooks" / "alerts.md").read_text()
    service = project / "deploy" / "terraform" / "service"
    text = "".join((service / name).read_text() for name in ("alarms.tf", "valkey.tf"))
    alarms = re.findall(r"^ +([a-z-]+) += \{\s+metric +=", text, re.MULTILINE)
    assert {"errors", "tasks-cpu", "valkey-memory"} <= set(alarms)
    table = re.findall(r"^\| (`.+) \| \[(\w+)\]\(#", page, re.MULTILINE)
    assert sorted(name for names, _ in table for name in re.findall(r"`([^`]+)`", names)) == sorted(alarms)
    assert {section for _, section in table} <= set(re.findall(r"^### (.*)$", page, re.MULTILINE))


def test_each_section_of_the_runbook_answers_what_somebody_at_night_asks(project: Path):
    page = (project / "docs" / "runbooks" / "alerts.md").read_text()
    for section in re.split(r"^### ", page, flags=re.MULTILINE)[1:]:
        found = re.findall(r"^- \*\*(.+?)\*\*", section.split("\n## ")[0], re.MULTILINE)
        assert found == ["Users notice:", "Look at:", "Do:", "Escalate:"], section.split("\n")[0]


def test_the_dashboard_is_one_that_grafana_takes_and_prometheus_reads(project: Path, tmp_path: Path):
    shown = dashboard(project)
    plugins.register_default_plugins()  # of panels and of queries
    known = json.loads(JSONEncoder().encode(Dashboard.from_json(shown)))
    assert set(unknown(shown, known)) <= {f"/annotations/list/{name}" for name in ("step", "tagKeys", "titleFormat")}
    assert (shown["uid"], shown["title"]) == ("my-service", "my-service"), "which no other service's is"
    assert [each["name"] for each in shown["templating"]["list"] if each["type"] == "datasource"] == ["datasource"]
    panels = cast("list[dict[str, Any]]", shown["panels"])
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set[tuple[int, int]]()
    for panel in panels:
        assert panel["type"] in {"row", "timeseries", "stat"}
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
        assert panel["type"] == "row" or panel["targets"]
    asking = [asked for panel in panels if panel["type"] != "row" for asked in (panel, *panel["targets"])]
    for asked in [*asking, *shown["annotations"]["list"]]:
        assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    rules = [{"record": f"shown:{n}", "expr": expression} for n, expression in enumerate(expressions(project))]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "shown", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool(tmp_path, "check", "rules", "rules.yml")


def unknown(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Where Grafana's own types have lost or changed what was read into them. What a plugin adds they do not know."""
    match ours:
        case dict():
            for key, value in cast("dict[str, Any]", ours).items():
                if key in theirs:
                    yield from unknown(value, theirs[key], f"{path}/{key}")
                else:
                    yield f"{path}/{key}"
        case list():
            for value, read in zip(cast("list[Any]", ours), theirs, strict=True):
                yield from unknown(value, read, path)
        case _ if ours != theirs:
            yield path
        case _:
            pass


class Selector(NamedTuple):
    metric: str
    labels: frozenset[str]


def read(expression: str) -> tuple[list[Selector], set[str]]:
    """What an expression selects, and the labels that it groups by."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    groups = {label.strip() for found in GROUPING.findall(bare) for label in found.split(",")}
    bare = re.sub(r"\[[^\]]*\]|\boffset \w+", "", GROUPING.sub("", bare))
    selectors = [
        Selector(name, frozenset(re.findall(r"(\w+)\s*[=!]", labels)))
        for name, labels in SELECTOR.findall(bare)
        if name not in OPERATORS
    ]
    return selectors, groups


def test_an_expression_is_read_for_what_it_names():
    text = 'sum by (a, le) (rate(x_count{b=~"y{2}", c!="z"}[5m])) > 2 * 1 unless on (d) w_total offset 5m == 1'
    assert read(text) == ([Selector("x_count", frozenset("bc")), Selector("w_total", frozenset())], {"a", "le", "d"})


class Watched(NamedTuple):
    """A service that a Prometheus watches."""

    project: Path
    prometheus: str
    stop_service: Callable[[], None]

    def ask(self, path: str, **parameters: str) -> Any:
        parameters = {name.replace("match", "match[]"): text for name, text in parameters.items()}
        return httpx.get(f"{self.prometheus}/api/v1/{path}", params=parameters).raise_for_status().json()["data"]

    def states(self) -> dict[str, str]:
        """Of the alerts."""
        groups = self.ask("rules")["groups"]
        assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}
        return {rule["name"]: rule["state"] for group in groups for rule in group["rules"]}


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def watched(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    for name in ("prometheus", "prometheus-node-exporter", "prometheus-blackbox-exporter"):
        program(name)
    folder = tmp_path_factory.mktemp("watched")
    project = folder / "my-service"
    run_copy(str(template), project, data={"shared_store": "valkey"}, defaults=True, unsafe=True, quiet=True)
    run(project, "uv", "sync", "--quiet", "--python", str(python(NEWEST)))
    texts, config = folder / "texts", folder / "monitoring"
    shutil.copytree(project / "deploy" / "monitoring", config)
    (config / "targets").mkdir()
    texts.mkdir()
    with ExitStack() as service, ExitStack() as stack:
        port = service.enter_context(serving(project, folder / "log"))
        url = f"http://127.0.0.1:{port}"
        environment = f"APP_BACKUP_METRICS={texts}"
        run(project, ".venv/bin/chassis", "smoke", url)
        run(project, "env", environment, ".venv/bin/chassis", "backup")
        run(project, "env", environment, ".venv/bin/chassis", "drill")
        be_refused_by_a_limit(url)

        node, blackbox, prometheus = (free_port() for _ in range(3))
        public = service.enter_context(https(folder))
        stack.enter_context(
            running("prometheus-node-exporter", f"--collector.textfile.directory={texts}", listen=node, folder=folder)
        )
        trust = f"SSL_CERT_FILE={folder / 'tls.crt'}"
        settings = "--config.file=/etc/prometheus/blackbox.yml"
        stack.enter_context(
            running("env", trust, "prometheus-blackbox-exporter", settings, listen=blackbox, folder=folder)
        )
        metrics = [f"127.0.0.1:{port + 1}", f"localhost:{port + 1}"]
        for name, targets in {"service": metrics, "host": [f"127.0.0.1:{node}"], "public": [public]}.items():
            (config / "targets" / f"{name}.yml").write_text(yaml.safe_dump([{"targets": targets}]))
        hurry(config / "prometheus.yml", {r":9115": f":{blackbox}", r"_interval: \w+": "_interval: 1s"})
        hurry(config / "alerts.yml", {r"for: \w+": "for: 1s"})
        options = [f"--config.file={config / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        stack.enter_context(running("prometheus", *options, listen=prometheus, folder=folder))
        made = Watched(project, f"http://127.0.0.1:{prometheus}", service.close)
        until(lambda: httpx.get(f"{made.prometheus}/-/ready").status_code == 200)
        until(lambda: len(made.ask("query", query="up == 1 and scrape_samples_scraped > 0")["result"]) == 4)
        until(lambda: "unknown" not in {rule["health"] for g in made.ask("rules")["groups"] for rule in g["rules"]})
        yield made


def hurry(path: Path, changes: dict[str, str]) -> None:
    text = path.read_text()
    for pattern, new in changes.items():
        text, count = re.subn(pattern, new, text)
        assert count, pattern
    path.write_text(text)


def be_refused_by_a_limit(url: str) -> None:
    """A counter that has counted nothing is not there."""
    body = {"email": "nobody@example.com", "password": "not the right one"}
    assert 429 in (httpx.post(f"{url}/v1/auth/signin", json=body).status_code for _ in range(200))


@contextmanager
def running(*command: str, listen: int, folder: Path) -> Generator[None]:
    with (folder / f"{listen}.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{listen}"], cwd=folder, stdout=log, stderr=log
        )
    try:
        until(lambda: process.poll() is not None or listens(listen))
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def https(folder: Path) -> Generator[str]:
    """The URL of a public address with a certificate, which answers 200."""
    options = "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command = ["openssl", *options.split(), "-keyout", folder / "tls.key", "-out", folder / "tls.crt"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")

    class Ready(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Ready)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"https://localhost:{server.server_port}/readyz"
    finally:
        server.shutdown()
        server.server_close()


def test_every_metric_and_label_that_is_named_is_really_there(watched: Watched):
    for expression in expressions(watched.project):
        selectors, groups = read(expression)
        known = set[str]()
        for metric, labels in selectors:
            series = cast("list[dict[str, str]]", watched.ask("series", match=metric))
            assert series, f"nothing exposes {metric}"
            assert all(labels <= each.keys() for each in series if metric != "up"), f"{labels} of {metric}"
            known |= {name for each in series for name in each}
        assert groups <= known, expression


def test_every_panel_shows_something_but_for_errors_of_which_there_were_none(watched: Watched):
    for panel in dashboard(watched.project)["panels"]:
        for target in panel.get("targets", []):
            if '"5.."' not in target["expr"]:
                query = target["expr"].replace("$__rate_interval", "1m")
                until(lambda query=query: watched.ask("query", query=query)["result"], 20)


def test_alerts_are_silent_for_a_service_that_works_and_hear_of_one_that_does_not(watched: Watched):
    silent = set(alerts(watched.project)) - {"DiskFillsUp", "DiskAlmostFull"}  # which this machine's disk decides
    states = watched.states()
    assert {name: states[name] for name in silent} == dict.fromkeys(silent, "inactive")
    watched.stop_service()
    until(lambda: {watched.states()[name] for name in ("ReplicaDown", "ServiceUnreachable")} == {"firing"})
