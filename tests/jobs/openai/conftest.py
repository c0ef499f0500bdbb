"""A site that the tests of a module share, each with a key of its own.

Not those of a session: it works in a thread, and draws random numbers there, which hypothesis does not allow beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
from openai import OpenAI

from tests.jobs.place import Place

from .site import Site, site


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("openai")
    with site(Place(f"sqlite:///{folder}/jobs.db", folder)) as made:
        yield made


@pytest.fixture
def client(shared: Site) -> OpenAI:
    """Of somebody who has nothing yet."""
    return shared.client(f"sk-{uuid4()}")
