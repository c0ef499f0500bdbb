"""The Kubernetes objects: what kustomize makes of them, and whether they agree with each other and with the config."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.artifacts import DEPLOY, Document, document, documents, seconds
from tests.programs import program, run, serving
from tests.serving import ask

BASE = DEPLOY / "kubernetes" / "base"

# The versions that clusters serve today; older ones are gone.
API_VERSIONS = {
    "ConfigMap": "v1",
    "Deployment": "apps/v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
    "Service": "v1",
}


@pytest.fixture(scope="module")
def objects() -> dict[str, Document]:
    """The objects as they are written, by kind."""
    files = document(BASE / "kustomization.yaml")["resources"]
    return {each["kind"]: each for file in files for each in documents((BASE / file).read_text("utf-8"))}


@pytest.fixture(scope="module")
def rendered() -> dict[str, Document]:
    """The objects as kustomize renders them."""
    said = run(program("kubectl"), "kustomize", BASE).stdout
    return {each["kind"]: each for each in documents(said)}


@pytest.fixture
def pod(objects: dict[str, Document]) -> Document:
    return objects["Deployment"]["spec"]["template"]


@pytest.fixture
def container(pod: Document) -> Document:
    (only,) = pod["spec"]["containers"]
    return only


@pytest.fixture
def config() -> Document:
    return document(BASE / "batchproxy.yaml")


def test_every_file_is_part_of_the_base(objects: dict[str, Document]) -> None:
    """No file lies around that kustomize does not read, and each kind is there once, in a version that is served."""
    kustomization = document(BASE / "kustomization.yaml")
    named = {*kustomization["resources"], *kustomization["configMapGenerator"][0]["files"], "kustomization.yaml"}
    assert named == {path.name for path in BASE.iterdir()}
    assert {kind: each["apiVersion"] for kind, each in objects.items()} | {"ConfigMap": "v1"} == API_VERSIONS


def test_kustomize_renders_the_base(rendered: dict[str, Document]) -> None:
    """kustomize makes all objects, and an image that an overlay sets in one place."""
    assert {kind: each["apiVersion"] for kind, each in rendered.items()} == API_VERSIONS
    (container,) = rendered["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/batchproxy:0"


def test_a_changed_config_is_a_new_rollout(rendered: dict[str, Document]) -> None:
    """The ConfigMap's name ends in a hash of its content, and the pods mount it under that name."""
    name = rendered["ConfigMap"]["metadata"]["name"]
    assert name.startswith("batchproxy-")
    volumes = rendered["Deployment"]["spec"]["template"]["spec"]["volumes"]
    assert [each["configMap"]["name"] for each in volumes if "configMap" in each] == [name]
    assert rendered["ConfigMap"]["data"]["batchproxy.yaml"] == (BASE / "batchproxy.yaml").read_text("utf-8")


def test_selectors_find_the_pods(objects: dict[str, Document], pod: Document) -> None:
    """Every selector names labels that the pods have, and the same as the Deployment's own."""
    labels = pod["metadata"]["labels"]
    found = dict(_selectors(objects))
    assert found.keys() == {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "spread 0", "spread 1"}
    assert all(selector == labels for selector in found.values()), found


def _selectors(objects: dict[str, Document]) -> Iterator[tuple[str, Document]]:
    yield "Deployment", objects["Deployment"]["spec"]["selector"]["matchLabels"]
    yield "Service", objects["Service"]["spec"]["selector"]
    yield "PodDisruptionBudget", objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    yield "NetworkPolicy", objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
    for number, each in enumerate(objects["Deployment"]["spec"]["template"]["spec"]["topologySpreadConstraints"]):
        yield f"spread {number}", each["labelSelector"]["matchLabels"]


def test_the_autoscaler_scales_the_deployment(objects: dict[str, Document]) -> None:
    """The HPA names the Deployment, which leaves the number of replicas to it; one pod may always go."""
    deployment, scaler = objects["Deployment"], objects["HorizontalPodAutoscaler"]["spec"]
    target = scaler["scaleTargetRef"]
    named = (target["apiVersion"], target["kind"], target["name"])
    assert named == (deployment["apiVersion"], deployment["kind"], deployment["metadata"]["name"])
    assert "replicas" not in deployment["spec"]
    assert 1 < scaler["minReplicas"] <= scaler["maxReplicas"]
    assert objects["PodDisruptionBudget"]["spec"]["maxUnavailable"] < scaler["minReplicas"]


def test_ports_agree(objects: dict[str, Document], container: Document, config: Document) -> None:
    """What the config listens on is what the container names, and what the Service and the NetworkPolicy point to."""
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    server = config["server"]
    assert {name: f"0.0.0.0:{port}" for name, port in ports.items()} == {
        "http": server["listen"],
        "admin": server["admin"],
    }
    assert [each["targetPort"] for each in objects["Service"]["spec"]["ports"]] == ["http"]
    policy = objects["NetworkPolicy"]["spec"]
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["http"]
    upstream = int(config["upstreams"]["default"]["url"].rpartition(":")[2])
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53, upstream}


def test_probes_ask_the_admin_port(container: Document) -> None:
    """Each probe asks its own health endpoint, by a name that the admin listener takes."""
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {name: each["path"] for name, each in probes.items()} == {
        "startupProbe": "/startupz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/livez",
    }
    assert all(each["port"] == "admin" for each in probes.values())
    assert all(each["httpHeaders"] == [{"name": "Host", "value": "localhost"}] for each in probes.values())


def test_a_pod_has_time_to_end(pod: Document, container: Document, config: Document) -> None:
    """Kubernetes waits longer than draining and the grace take, and draining outlasts the readiness probe."""
    drain, grace = seconds(config["server"]["drain_delay"]), seconds(config["server"]["grace"])
    assert pod["spec"]["terminationGracePeriodSeconds"] > drain + grace
    probe = container["readinessProbe"]
    assert drain > probe["periodSeconds"] * probe["failureThreshold"]


def test_a_pod_can_do_little_else(pod: Document, container: Document) -> None:
    """Not root, nothing writable, no capability, no token; the `restricted` standard of Kubernetes, and more."""
    spec = pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 10_000
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    assert container["resources"]["limits"].keys() == {"memory"}
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}


def test_the_environment_is_not_filled_by_services(pod: Document) -> None:
    """Kubernetes would put BATCHPROXY_PORT there for a Service of that name, and the proxy reads BATCHPROXY_…."""
    assert pod["spec"]["enableServiceLinks"] is False


def test_what_is_mounted_is_what_is_read(pod: Document, container: Document, config: Document) -> None:
    """The file that `serve` is given and the secret that the config names lie in volumes of the pod."""
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    assert set(mounts.values()) == {each["name"] for each in pod["spec"]["volumes"]}
    assert container["args"] == ["serve", "--config", "/etc/batchproxy/batchproxy.yaml"]
    assert "/etc/batchproxy" in mounts
    secret = config["server"]["admin_token"].removeprefix("${file:").removesuffix("}")
    assert secret.rpartition("/")[0] in mounts


def test_the_objects_fit_the_schemas(rendered: dict[str, Document]) -> None:
    """Where the package with Kubernetes' own schemas is installed, every object fits them, without an unknown field."""
    schemas: Any = pytest.importorskip(
        "kubernetes_validate", reason="pip install kubernetes-validate: 22 MB of schemas"
    )
    for each in rendered.values():
        schemas.validate(each, "1.37", strict=True)


def test_the_probes_are_answered_and_the_rest_asks_for_the_token(container: Document, tmp_path: Path) -> None:
    """A process with this config answers the probes of the kubelet, and shows nothing else without the token."""
    (tmp_path / "admin-token").write_text("of-the-test")
    file = tmp_path / "batchproxy.yaml"
    written = (BASE / "batchproxy.yaml").read_text("utf-8").replace("drain_delay: 10s", "drain_delay: 0s")
    file.write_text(written.replace("/run/secrets/batchproxy", str(tmp_path)), "utf-8")

    def command(admin: socket.socket) -> list[str]:
        where = ["--listen", f"unix:{tmp_path}/proxy.sock", "--admin", f"fd:{admin.fileno()}"]
        return [sys.executable, "-m", "batchproxy", *container["args"][:2], str(file), *where]

    with serving(command) as admin:
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container[name]["httpGet"]
            headers = [(each["name"], each["value"]) for each in probe["httpHeaders"]]
            # The kubelet asks again, too: the admin port answers before the start is over.
            while name == "startupProbe" and ask(admin, "GET", probe["path"], headers).status == 503:
                pass
            assert ask(admin, "GET", probe["path"], headers).status == 200
        host = ("Host", "localhost")
        assert ask(admin, "GET", "/-/config", [host]).status == 401
        assert ask(admin, "GET", "/-/config", [host, ("Authorization", "Bearer of-the-test")]).status == 200
