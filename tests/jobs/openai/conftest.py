"""A site that tests share, each with a key of its own."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
from openai import OpenAI

from tests.jobs.place import Place

from .site import Site, site


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("openai")
    with site(Place(f"sqlite:///{folder}/jobs.db", folder)) as made:
        yield made


@pytest.fixture
def client(shared: Site) -> OpenAI:
    """Of somebody who has nothing yet."""
    return shared.client(f"sk-{uuid4()}")
