"""The config files of deploy/ against the loader: what they say is what the proxy understands."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest

from batchproxy.server import config
from tests.deploy.artifacts import CONFIGS, DEPLOY, documents
from tests.programs import ROOT

SECRETS = "/run/secrets/batchproxy"


def loaded(path: Path, folder: Path) -> config.Loaded:
    """Load a file as it is loaded where it is deployed: with its secrets in a folder."""
    (folder / "admin-token").write_text("of-the-test")
    (folder / "jobs-url").write_text("postgresql://user:password@host/database\n")
    (folder / "jobs-key").write_text(b64encode(bytes(32)).decode())
    copy = folder / path.name
    copy.write_text(path.read_text("utf-8").replace(SECRETS, str(folder)), "utf-8")
    return config.load(copy, environment={"UPSTREAM": "http://192.0.2.7:9000"})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_config_is_loaded_without_a_warning(path: Path, tmp_path: Path) -> None:
    """The loader takes the file, and has nothing to remark."""
    assert loaded(path, tmp_path).warnings == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_config_names_its_schema(path: Path) -> None:
    """An editor finds the JSON Schema from the first line."""
    first = path.read_text("utf-8").splitlines()[0]
    named = first.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / named).resolve() == ROOT / "config" / "batchproxy.schema.json"


def test_the_image_needs_to_be_told_the_upstream() -> None:
    """Without UPSTREAM the image's own config is refused, and the error says where and what is missing."""
    with pytest.raises(config.ConfigErrors, match=r"container\.yaml:\d+:\d+: error: .*UPSTREAM"):
        config.load(DEPLOY / "container.yaml", environment={})


def test_the_samples_are_told_apart_by_their_prefix(tmp_path: Path) -> None:
    """In the compose file's config each shop has a prefix, which it does not see."""
    routes = loaded(DEPLOY / "compose" / "batchproxy.yaml", tmp_path).config.routes
    found = {(route.path, route.upstream, bool(route.strip_prefix)) for route in routes}
    assert found == {("/new", "new-shop", True), ("/old", "old-shop", True)}


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.yaml")), ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_yaml_file_is_yaml(path: Path) -> None:
    """Each file is read, with no key twice, and ends in a line break."""
    text = path.read_text("utf-8")
    assert documents(text)
    assert text.endswith("\n")
    assert "\t" not in text
