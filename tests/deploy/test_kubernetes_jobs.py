"""The Kubernetes objects with jobs: what they add to those of the base, and whether they agree with these."""

from __future__ import annotations

import pytest

from tests.deploy.artifacts import DEPLOY, Document, document, documents, seconds
from tests.programs import program, run

BASE, JOBS = DEPLOY / "kubernetes" / "base", DEPLOY / "kubernetes" / "jobs"
PROXY, WORKER = "batchproxy", "batchproxy-worker"


@pytest.fixture(scope="module")
def rendered() -> dict[tuple[str, str], Document]:
    """The objects as kustomize renders them, by kind and name; the ConfigMap's name has a hash."""
    said = run(program("kubectl"), "kustomize", JOBS).stdout
    return {(each["kind"], each["metadata"]["name"]): each for each in documents(said)}


@pytest.fixture(scope="module")
def config() -> Document:
    return document(JOBS / "batchproxy.yaml")


def pod(rendered: dict[tuple[str, str], Document], name: str) -> Document:
    return rendered["Deployment", name]["spec"]["template"]


def container(rendered: dict[tuple[str, str], Document], name: str) -> Document:
    (only,) = pod(rendered, name)["spec"]["containers"]
    return only


def test_it_is_the_base_with_workers(rendered: dict[tuple[str, str], Document]) -> None:
    """No file lies around that kustomize does not read; a Deployment and a NetworkPolicy are added."""
    kustomization = document(JOBS / "kustomization.yaml")
    named = {*kustomization["resources"], *kustomization["configMapGenerator"][0]["files"], "kustomization.yaml"}
    assert named - {"../base"} == {path.name for path in JOBS.iterdir()}
    said = run(program("kubectl"), "kustomize", BASE).stdout
    of_base = {(each["kind"], each["metadata"]["name"]) for each in documents(said) if each["kind"] != "ConfigMap"}
    added = {key for key in rendered if key[0] != "ConfigMap"} - of_base
    assert added == {("Deployment", WORKER), ("NetworkPolicy", WORKER)}
    assert of_base < rendered.keys()


def test_all_pods_have_one_config_and_one_image(rendered: dict[tuple[str, str], Document]) -> None:
    """Under a name that ends in a hash of its content, so that a change rolls out to all of them."""
    [(_, name)] = [key for key in rendered if key[0] == "ConfigMap"]
    assert rendered["ConfigMap", name]["data"]["batchproxy.yaml"] == (JOBS / "batchproxy.yaml").read_text("utf-8")
    for deployment in (PROXY, WORKER):
        volumes = pod(rendered, deployment)["spec"]["volumes"]
        assert [each["configMap"]["name"] for each in volumes if "configMap" in each] == [name]
    proxy, worker = container(rendered, PROXY), container(rendered, WORKER)
    assert worker["image"] == proxy["image"] == "registry.example/batchproxy:0"
    assert worker["volumeMounts"] == proxy["volumeMounts"]


def test_workers_are_asked_for_nothing(rendered: dict[tuple[str, str], Document]) -> None:
    """No selector of the base finds their pods, and their own objects find no others."""
    labels, of_proxy = pod(rendered, WORKER)["metadata"]["labels"], pod(rendered, PROXY)["metadata"]["labels"]
    assert labels != of_proxy
    assert rendered["Deployment", WORKER]["spec"]["selector"]["matchLabels"] == labels
    assert rendered["NetworkPolicy", WORKER]["spec"]["podSelector"]["matchLabels"] == labels
    assert rendered["Service", PROXY]["spec"]["selector"] == of_proxy
    assert rendered["HorizontalPodAutoscaler", PROXY]["spec"]["scaleTargetRef"]["name"] == PROXY
    policy = rendered["NetworkPolicy", WORKER]["spec"]
    assert (policy["policyTypes"], policy.get("ingress")) == (["Ingress", "Egress"], None)


def test_pods_reach_the_database_and_the_upstream(rendered: dict[tuple[str, str], Document], config: Document) -> None:
    """Those that serve store jobs, too; and both reach the same, each by a rule of its own."""
    upstream = int(config["upstreams"]["default"]["url"].rpartition(":")[2])
    rules = [rendered["NetworkPolicy", name]["spec"]["egress"] for name in (PROXY, WORKER)]
    assert rules[0] == rules[1]
    assert {port["port"] for rule in rules[0] for port in rule["ports"]} == {53, upstream, 5432}


def test_a_worker_does_what_the_config_leaves_to_it(
    rendered: dict[tuple[str, str], Document], config: Document
) -> None:
    """Those that serve do not work; what both read besides the file lies in the secret that is mounted."""
    assert config["jobs"]["worker"]["embedded"] is False
    assert config["jobs"]["store"]["hosts"] > 1
    found = container(rendered, WORKER)
    assert found["args"][:3] == ["worker", "--config", "/etc/batchproxy/batchproxy.yaml"]
    mounts = {each["mountPath"] for each in found["volumeMounts"]}
    url = config["jobs"]["store"]["url"].removeprefix("${file:").removesuffix("}")
    for path in (config["jobs"]["key_file"], url):
        assert path.rpartition("/")[0] in mounts
    told = (JOBS / "workers.yaml").read_text("utf-8")
    assert all(f"--from-literal={path.rpartition('/')[2]}=" in told for path in (config["jobs"]["key_file"], url))


def test_probes_ask_the_admin_port(rendered: dict[tuple[str, str], Document]) -> None:
    """As those of the base do; there is nothing to be ready for."""
    worker, proxy = container(rendered, WORKER), container(rendered, PROXY)
    assert worker["args"][3:] == ["--admin", "0.0.0.0:9090"]
    assert [(each["name"], each["containerPort"]) for each in worker["ports"]] == [("admin", 9090)]
    assert worker["startupProbe"] == proxy["startupProbe"]
    assert worker["livenessProbe"] == proxy["livenessProbe"]
    assert "readinessProbe" not in worker


def test_a_pod_has_time_to_hand_over(rendered: dict[tuple[str, str], Document], config: Document) -> None:
    """Kubernetes waits longer than draining and the grace take."""
    server = config["server"]
    patience = pod(rendered, WORKER)["spec"]["terminationGracePeriodSeconds"]
    assert patience > seconds(server["drain_delay"]) + seconds(server["grace"])


def test_a_pod_can_do_little_else(rendered: dict[tuple[str, str], Document]) -> None:
    """As little as one of the base."""
    worker, proxy = pod(rendered, WORKER)["spec"], pod(rendered, PROXY)["spec"]
    for name in ("securityContext", "automountServiceAccountToken", "enableServiceLinks"):
        assert worker[name] == proxy[name]
    assert container(rendered, WORKER)["securityContext"] == container(rendered, PROXY)["securityContext"]


def test_the_config_is_the_base_s_with_jobs(config: Document) -> None:
    """Nothing else differs."""
    assert {name: value for name, value in config.items() if name != "jobs"} == document(BASE / "batchproxy.yaml")


def test_the_objects_fit_the_schemas(rendered: dict[tuple[str, str], Document]) -> None:
    """Where the package with Kubernetes' own schemas is installed, every object fits them, without an unknown field."""
    schemas = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate: 22 MB of schemas")
    for each in rendered.values():
        schemas.validate(each, "1.37", strict=True)
