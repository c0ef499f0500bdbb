"""The files in `config/`, the JSON Schema and the reference follow from the settings classes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import trustme
from ruamel.yaml import YAML

from batchproxy.server.config import load, schema
from batchproxy.server.configuration.descriptions import DESCRIPTIONS
from batchproxy.server.configuration.located import is_secret_key
from batchproxy.server.configuration.printing import digest
from batchproxy.server.configuration.shapes import keys
from batchproxy.server.settings import Config
from scripts.configuration_docs import stale
from tests.documents import ROOT
from tests.protocol.schemas import faults

from .configured import errors

CONFIG = ROOT / "config"
EXAMPLES = sorted(CONFIG.rglob("*.yaml"))


def classes(settings: type[Any] = Config) -> list[type[Any]]:
    """All settings classes that a file may speak of."""
    found = [settings]
    for key in keys(settings).values():
        for inner in key.shape.classes:
            found.extend(classes(inner))
    return found


def test_what_is_generated_is_up_to_date() -> None:
    """config/full.yaml, the schema and docs/configuration.md are what the script writes."""
    assert stale() == []


def test_every_key_is_described() -> None:
    """There is a description for each key, and for nothing else."""
    assert {each.__name__: set(keys(each)) for each in classes()} == {
        name: set(described) for name, described in DESCRIPTIONS.items()
    }


def test_only_the_token_is_a_secret_key() -> None:
    """No other key looks like a secret, so all others are shown."""
    assert {name for each in classes() for name in keys(each) if is_secret_key(name)} == {"admin_token"}


def folder_of(example: Path, folder: Path) -> Path:
    """A copy of an example with the files that it names."""
    copy = folder / example.name
    shutil.copy(example, copy)
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    (folder / "certs").mkdir()
    (folder / "secrets").mkdir()
    (folder / "secrets" / "vault-token").write_text("x", "utf-8")
    authority.cert_pem.write_to_path(str(folder / "certs" / "internal-ca.pem"))
    for name in ("proxy", "client"):
        issued.cert_chain_pems[0].write_to_path(str(folder / "certs" / f"{name}.pem"))
        issued.private_key_pem.write_to_path(str(folder / "certs" / f"{name}.key"))
    return copy


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_file_works(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file of the folder loads without a warning, and fits the schema that it refers to."""
    if "BATCHPROXY_JOBS_KEY has the key" in example.read_text("utf-8"):
        monkeypatch.setenv("BATCHPROXY_JOBS_KEY", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
    found = load(folder_of(example, tmp_path), environment={"ADMIN_TOKEN": "x" * 32})
    assert found.warnings == []
    text = example.read_text("utf-8")
    [reference] = re.findall(r"\A# yaml-language-server: \$schema=(\S+)\n", text)
    assert (example.parent / reference).resolve() == CONFIG / "batchproxy.schema.json"
    assert faults(schema(), YAML(typ="safe", pure=True).load(text)) == []


def test_the_full_file_says_the_defaults() -> None:
    """But for its upstream and its route, config/full.yaml changes nothing."""
    full = load(CONFIG / "full.yaml", environment={}).config
    bare = load(
        None,
        environment={},
        flags={"upstreams.legacy.url": "http://127.0.0.1:9000", "routes": [{"upstream": "legacy"}]},
    )
    assert digest(full, ()) == bare.digest


def test_the_full_file_has_every_key() -> None:
    """Each key of each class stands in config/full.yaml, some behind a `#`."""
    text = (CONFIG / "full.yaml").read_text("utf-8")
    written = re.findall(r"^[ #-]*([a-z_0-9]+):(?: |$)", text, re.MULTILINE)
    assert {name for each in classes() for name in keys(each)} - set(written) == set()


@pytest.mark.parametrize(
    "wrong",
    [
        {"sever": {}},
        {"server": {"grace": "5 parsecs"}},
        {"server": {"max_header_bytes": "2 MB/s"}},
        {"server": {"log": {"level": "inf"}}},
        {"server": {"workers": "two"}},
        {"routes": [{"path": "/x"}]},
        {"endpoints": [{"in_flight": 1}]},
        {"endpoints": [{"guards": ["no function"]}]},
        {"endpoints": [{"one_model": True}]},
        {"endpoints": [{"dialect": "openai", "guards": []}]},
        {"endpoints": [{"dialect": "openai", "delivery": "twice"}]},
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(wrong: Any) -> None:
    """Unknown and missing keys, wrong types and wrong units do not fit the schema."""
    assert faults(schema(), wrong) != []


def test_the_schema_takes_what_the_dialect_has() -> None:
    """An endpoint has the keys of what its dialect makes it."""
    for right in ({}, {"dialect": "native", "guards": []}, {"dialect": "openai", "one_model": False, "keep": "2d"}):
        assert faults(schema(), {"endpoints": [right]}) == []


def test_the_errors_of_the_document_are_those_of_the_code(tmp_path: Path) -> None:
    """The errors that docs/configuration.md shows come out of the loader like that."""
    text = """\
    upstreams:
      orders:
        url: http://10.0.0.5:9000
        timeuts: {connect: 2s}
    routes:
      - upstream: order
    """
    found = "\n".join(str(each).removeprefix(f"{tmp_path}/") for each in errors(tmp_path, text))
    assert found in (ROOT / "docs" / "configuration.md").read_text("utf-8")
