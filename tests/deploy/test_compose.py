"""The compose file: its services against each other, the Dockerfile, the configs and the example apps."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from batchproxy.server.job_settings import KEY_VARIABLE
from tests.deploy.artifacts import DEPLOY, Document, document, seconds
from tests.faults.whole import whole
from tests.programs import ROOT
from tests.server.job_process import Behind, ended, job, submitted, working

FILE = DEPLOY / "compose.yaml"
CONFIG = DEPLOY / "compose" / "batchproxy.yaml"

PROXY, WORKER, NEW, OLD = "batchproxy", "worker", "new-shop", "old-shop"


@pytest.fixture(scope="module")
def services() -> dict[str, Document]:
    services: dict[str, Document] = document(FILE)["services"]
    return services


def test_every_service_is_built_from_here(services: dict[str, Document]) -> None:
    """Nothing is pulled but the base; each target is a stage of the Dockerfile, in the context of the repository."""
    stages = re.findall(r"(?m)^FROM .* AS (\w+)$", (DEPLOY / "Dockerfile").read_text("utf-8"))
    assert services.keys() == {PROXY, WORKER, NEW, OLD}
    assert services[WORKER]["image"] == services[PROXY]["image"]
    for name in (PROXY, NEW, OLD):
        build = services[name]["build"]
        assert (FILE.parent / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file()
        assert build["target"] in stages


def test_the_proxy_waits_for_healthy_upstreams(services: dict[str, Document]) -> None:
    """The proxy starts when both upstreams are healthy, and each has a check that can say so."""
    assert services[PROXY]["depends_on"] == {name: {"condition": "service_healthy"} for name in (NEW, OLD)}
    for name in (NEW, OLD):
        kind, *command = services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        assert command[:2] == ["python", "-c"]
        compile(command[2], name, "exec")


def test_upstreams_are_where_the_config_says(services: dict[str, Document]) -> None:
    """The names and ports in the config are the services', and their commands and checks use the same ports."""
    upstreams = document(CONFIG)["upstreams"]
    assert upstreams.keys() == {NEW, OLD}
    for name, upstream in upstreams.items():
        host, port = re.fullmatch(r"http://([a-z-]+):([0-9]+)", upstream["url"]).groups()  # type: ignore[union-attr]
        assert host == name
        assert port in " ".join(services[name]["command"])
        assert f":{port}/" in services[name]["healthcheck"]["test"][-1]


def test_the_commands_run_apps_that_are_there(services: dict[str, Document]) -> None:
    """The modules that the sample services run exist in the examples."""
    assert services[NEW]["command"][:3] == ["-m", "uvicorn", "examples.shop.app:app"]
    assert services[OLD]["command"] == ["-m", "examples.legacy", "0.0.0.0:9000"]
    for module in ("examples.shop.app", "examples.legacy.__main__"):
        assert importlib.util.find_spec(module) is not None


def test_the_config_is_mounted_read_only_where_the_image_looks(services: dict[str, Document]) -> None:
    """The folder with the config lies where the image's command expects the file, and cannot be written."""
    mount, _ = services[PROXY]["volumes"]
    assert mount["read_only"] is True
    assert (FILE.parent / mount["source"]).resolve() == CONFIG.parent
    command = re.findall(r"(?m)^CMD (\[.*\])$", (DEPLOY / "Dockerfile").read_text("utf-8"))[-1]
    assert json.loads(command)[-1] == f"{mount['target']}/{CONFIG.name}"


def test_workers_have_what_the_proxy_has(services: dict[str, Document]) -> None:
    """The same config and the same volume for jobs, at the place where the image has its folder for them."""
    proxy, worker = services[PROXY], services[WORKER]
    for name in ("volumes", "environment", "read_only", "cap_drop", "security_opt", "restart"):
        assert worker[name] == proxy[name]
    _, state = proxy["volumes"]
    assert document(FILE)["volumes"].keys() == {state["source"]}
    dockerfile = (DEPLOY / "Dockerfile").read_text("utf-8")
    assert f"ENV STATE_DIRECTORY={state['target']}\n" in dockerfile
    assert "url" not in document(CONFIG)["jobs"].get("store", {})
    # The check of the image asks a listener that a worker does not have.
    assert worker["healthcheck"] == {"disable": True}
    assert worker["depends_on"] == {PROXY: {"condition": "service_healthy"}}
    assert document(CONFIG)["jobs"]["worker"]["embedded"] is False
    assert set(proxy["environment"]) == {KEY_VARIABLE, "BATCHPROXY_JOBS__STORE__URL"}


def test_a_job_is_done_by_a_worker(services: dict[str, Document], tmp_path: Path) -> None:
    """With this config, and the command of the service: the proxy takes it, and does nothing of it itself."""
    behind = Behind()
    variables = {"STATE_DIRECTORY": str(tmp_path)}
    with behind.served() as shop:
        text = CONFIG.read_text("utf-8").replace("0.0.0.0:8080", "127.0.0.1:0").replace("127.0.0.1:9090", "127.0.0.1:0")
        for name, port in ((NEW, 8000), (OLD, 9000)):
            text = text.replace(f"http://{name}:{port}", shop.url)
        with whole(tmp_path, text, variables=variables) as process:
            path = submitted(process, ["/new/api/items/1", "/old/items/1"])
            assert job(process, path)["state"] == "queued"
            command, *arguments = services[WORKER]["command"]
            assert command == "worker"
            with working(*arguments[:-1], process.file, variables=variables):
                assert ended(process, path)["counts"]["completed"] == 2
    assert set(behind.seen) == {"/api/items/1", "/items/1"}


def test_services_can_do_little(services: dict[str, Document]) -> None:
    """A read-only root, no capability and no way to gain any; only the proxy is published, and on this machine only."""
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert {name for name, service in services.items() if "ports" in service} == {PROXY}
    listen = document(CONFIG)["server"]["listen"]
    assert services[PROXY]["ports"] == [f"127.0.0.1:8080:{listen.rpartition(':')[2]}"]


def test_the_proxy_has_time_to_end(services: dict[str, Document]) -> None:
    """`docker compose stop` waits longer than draining and the grace take."""
    server = document(CONFIG)["server"]
    for name in (PROXY, WORKER):
        assert seconds(services[name]["stop_grace_period"]) > seconds(server["drain_delay"]) + seconds(server["grace"])
