"""The wheel, installed into environments that have nothing but what it asks for, as the Dockerfile does.

The dependencies come from this environment, not from an index: each is linked, and no other.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import venv
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from tests.programs import ROOT

# Building and two installations take some seconds, more than other tests, but are done once.
LONGEST = 240


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    has_builder = importlib.util.find_spec("hatchling") is not None
    options = ["--no-build-isolation"] if has_builder else []
    _pip("wheel", "--no-deps", *options, "--wheel-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _installed(wheel, tmp_path_factory.mktemp("core"), extra="")


@pytest.fixture(scope="module")
def proxy(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _installed(wheel, tmp_path_factory.mktemp("proxy"), extra="proxy")


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    """All modules, the marker of types and the licence are in; tests, examples and caches are not."""
    names = ZipFile(wheel).namelist()
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "batchproxy").rglob("*.py")}
    assert modules <= set(names)
    assert "batchproxy/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert all(name.startswith(("batchproxy/", "batchproxy-")) for name in names)
    assert not any("__pycache__" in name for name in names)


def test_the_core_needs_msgspec_alone(core: Path) -> None:
    """Without an extra, the middleware is imported, and nothing but msgspec is there."""
    code = "import batchproxy, batchproxy.middleware; print(batchproxy.BatchMiddleware.__name__)"
    assert _run(core / "bin" / "python", "-c", code).stdout == "BatchMiddleware\n"
    installed = {path.name for path in _site_packages(core).iterdir() if path.name.endswith(".dist-info")}
    assert {name.partition("-")[0] for name in installed} == {"batchproxy", "msgspec"}


@pytest.mark.parametrize("command", [["batchproxy"], ["python", "-m", "batchproxy"]])
def test_the_command_says_what_it_lacks(core: Path, command: list[str]) -> None:
    """Without the extra, the command ends with a sentence that names it, and no traceback."""
    finished = _run(core / "bin" / command[0], *command[1:], "version", code=None)
    assert finished.returncode != 0
    assert "batchproxy[proxy]" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("command", [["batchproxy"], ["python", "-m", "batchproxy"]])
def test_the_extra_has_all_that_the_command_needs(proxy: Path, command: list[str]) -> None:
    """With what [proxy] asks for, and no package more, the command runs, and knows its version."""
    finished = _run(proxy / "bin" / command[0], *command[1:], "version")
    assert distribution("batchproxy").version in finished.stdout


def _installed(wheel: Path, folder: Path, *, extra: str) -> Path:
    """A fresh environment with the wheel and the closure of its requirements."""
    venv.create(folder, with_pip=False, symlinks=True)
    _pip("--python", folder / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    (installed,) = distributions(name="batchproxy", path=[str(_site_packages(folder))])
    for name in _closure(installed, extra, set()) - {"batchproxy"}:
        _link(name, _site_packages(folder))
    return folder


def _closure(found: Distribution, extra: str, known: set[tuple[str, str]]) -> set[str]:
    """The names of all that a distribution asks for, its own included."""
    known.add((found.name, extra))
    names = {found.name}
    for required in map(Requirement, found.requires or ()):
        if required.marker is None or required.marker.evaluate({"extra": extra}):
            for each in {"", *required.extras}:
                if (required.name, each) not in known:
                    wanted = found if required.name == found.name else distribution(required.name)
                    names |= _closure(wanted, each, known)
    return names


def _link(name: str, site_packages: Path) -> None:
    """Make a distribution of this environment visible in another."""
    found = distribution(name)
    for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
        link = site_packages / top
        if not link.exists():
            link.symlink_to(Path(str(found.locate_file(top))))


def _site_packages(folder: Path) -> Path:
    (found,) = folder.glob("lib/python*/site-packages")
    return found


def _pip(*arguments: str | Path) -> None:
    _run(Path(sys.executable), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


def _run(program: Path, *arguments: str | Path, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    finished = subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, timeout=LONGEST, cwd="/"
    )
    assert code in (None, finished.returncode), finished.stdout + finished.stderr
    return finished
