"""Rules for the Dockerfile, read as a builder reads it. No engine runs here, so no image is built."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.deploy.artifacts import DEPLOY
from tests.programs import ROOT

Instruction = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def values(self, keyword: str) -> list[str]:
        return [value for name, value in self.instructions if name == keyword]

    def last(self, keyword: str) -> str:
        return self.values(keyword)[-1]


def instructions() -> Iterator[Instruction]:
    """Each instruction with its arguments, on one line."""
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            keyword, _, value = line.strip().partition(" ")
            yield keyword, re.sub(r"\s+", " ", value)


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    for keyword, value in instructions():
        if keyword == "FROM":
            base, _, name = value.split()
            found[name] = Stage(name=name, base=base)
        elif found:
            list(found.values())[-1].instructions.append((keyword, value))
    return found


def final(stages: dict[str, Stage]) -> Stage:
    return list(stages.values())[-1]


def test_the_last_stage_is_the_proxy(stages: dict[str, Stage]) -> None:
    """What is built by default starts from the bare base, and takes from the build only the finished environment."""
    assert final(stages).name == "batchproxy"
    assert final(stages).base == "${BASE}"
    assert [value for value in final(stages).values("COPY") if value.startswith("--from=")] == [
        "--from=build /opt/batchproxy /opt/batchproxy",
        "--from=build --chown=65532:65532 /state /var/lib/batchproxy",
    ]
    assert final(stages).values("RUN") == []


def test_the_wheel_is_built_and_then_installed(stages: dict[str, Stage]) -> None:
    """The build makes wheels and installs those alone: not a project of the same name that an index may have."""
    wheel, environment, install, _ = map(json.loads, stages["build"].values("RUN"))
    assert wheel[:4] == ["python", "-m", "pip", "wheel"]
    assert wheel[-1] == ".[all]"
    assert environment[:3] == ["python", "-m", "venv"]
    assert install[-1] == "batchproxy[all]"
    assert "--no-index" in install
    assert install[install.index("--find-links") + 1] == wheel[wheel.index("--wheel-dir") + 1]


@pytest.mark.parametrize("name", ["batchproxy", "samples"])
def test_nothing_runs_as_root(stages: dict[str, Stage], name: str) -> None:
    """The user is a number above those of the system, so that `runAsNonRoot` can be judged, and none is root later."""
    assert stages[name].values("USER") == ["65532:65532"]
    after = [
        keyword for keyword, _ in stages[name].instructions[stages[name].instructions.index(("USER", "65532:65532")) :]
    ]
    assert not {"RUN", "COPY", "ADD"} & set(after)


def test_no_shell_stands_between(stages: dict[str, Stage]) -> None:
    """Everything that is run is in exec form, so that signals reach the process, and no shell is needed."""
    for stage in stages.values():
        for keyword in ("CMD", "ENTRYPOINT", "RUN"):
            assert all(json.loads(value) for value in stage.values(keyword))
    _, _, check = final(stages).last("HEALTHCHECK").partition(" CMD ")
    assert json.loads(check) == ["batchproxy", "healthcheck"]
    assert json.loads(final(stages).last("ENTRYPOINT")) == ["batchproxy"]
    assert json.loads(final(stages).last("CMD")) == ["serve", "--config", "/etc/batchproxy/batchproxy.yaml"]
    assert final(stages).last("STOPSIGNAL") == "SIGTERM"


def test_the_root_may_be_read_only(stages: dict[str, Stage]) -> None:
    """Python writes no bytecode, and keeps no output back; no volume is needed, nor any folder to work in."""
    for name in ("batchproxy", "samples"):
        environment = " ".join(stages[name].values("ENV"))
        assert "PYTHONDONTWRITEBYTECODE=1" in environment
        assert "PYTHONUNBUFFERED=1" in environment
        assert "PATH=/opt/batchproxy/bin:$PATH" in environment
    assert final(stages).values("VOLUME") == []
    assert final(stages).last("WORKDIR") == "/"


def test_jobs_have_a_folder_of_the_user(stages: dict[str, Stage]) -> None:
    """It is empty, so that a volume there is the user's, and it is where the process looks."""
    assert json.loads(stages["build"].last("RUN")) == ["mkdir", "/state"]
    assert "STATE_DIRECTORY=/var/lib/batchproxy" in final(stages).values("ENV")


def test_the_image_says_what_it_is(stages: dict[str, Stage]) -> None:
    """The labels are those of the Open Containers annotations, and the licence is the project's."""
    labels = dict(re.findall(r'org\.opencontainers\.image\.([a-z]+)="([^"]*)"', final(stages).last("LABEL")))
    assert labels.keys() >= {"title", "description", "licenses", "version", "revision"}
    assert f'license = "{labels["licenses"]}"' in (ROOT / "pyproject.toml").read_text("utf-8")


def test_nothing_is_added_from_elsewhere(stages: dict[str, Stage]) -> None:
    """No ADD, no `latest`, and every argument of COPY is in the context that .dockerignore leaves."""
    assert not any(stage.values("ADD") for stage in stages.values())
    assert "latest" not in (DEPLOY / "Dockerfile").read_text("utf-8")
    for stage in stages.values():
        for value in stage.values("COPY"):
            if not value.startswith("--from="):
                for source in value.split()[:-1]:
                    assert (ROOT / source).exists()
                    assert any(_in_context(path) for path in _files(ROOT / source)), source


def test_the_context_has_what_a_build_needs_and_no_more() -> None:
    """Tests, caches, environments and the history stay out; the package and its licence are in."""
    for path in ("LICENSE", "README.md", "pyproject.toml", "batchproxy/__init__.py", "batchproxy/py.typed"):
        assert _in_context(ROOT / path), path
    for path in (".git/config", ".venv/bin/python", "tests/serving.py", ".coverage", "benchmarks/soak.py"):
        assert not _in_context(ROOT / path), path


def _files(path: Path) -> Iterator[Path]:
    yield from [path] if path.is_file() else path.rglob("*.py")


def _in_context(path: Path) -> bool:
    """Whether .dockerignore leaves a file: the last pattern that matches it or a folder of it decides."""
    relative = path.relative_to(ROOT)
    places = [str(relative), *map(str, relative.parents[:-1])]
    is_in = True
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").removeprefix("**/")
            if any(fnmatch(place, pattern) or fnmatch(place, f"*/{pattern}") for place in places):
                is_in = line.startswith("!")
    return is_in
