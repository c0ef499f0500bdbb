"""What jobs keep of credentials, and whose a job is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchproxy import SettingError
from batchproxy.engine.model import Scope
from batchproxy.jobs.resources import Box, JobsSettings, Vault, box_of
from batchproxy.jobs.resources.principal import Owners
from batchproxy.jobs.resources.problems import NoPrincipal, Unprocessable
from batchproxy.jobs.resources.secrets import VARIABLE, CannotOpen, Secret
from batchproxy.jobs.store import StoreSettings
from tests.jobs.place import Place
from tests.protocol.api import Api, answer
from tests.protocol.exchange import JSON, HeaderMap
from tests.proxy.on_a_loop import on_a_loop, run

from .site import ANN, ASYNC, KEY, QUICK, job_id, location, rows, site

ONE, TWO = b"1" * 32, b"2" * 32
TOKEN = "Bearer e7f1c2-not-to-be-found"


def contents(folder: Path) -> bytes:
    """All that lies on the disk, but the key."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".key")


# Sealing


def test_what_is_sealed_can_be_opened_by_whom_it_is_for() -> None:
    """Not for somebody else, not with another key, not if a bit is turned; and never twice the same."""
    box = Box([ONE])
    sealed = box.seal(b"secret", b"ann")
    assert box.open(sealed, b"ann") == b"secret"
    assert b"secret" not in sealed
    assert box.seal(b"secret", b"ann") != sealed
    for bad in (
        sealed[:-1],
        sealed[:10],
        b"",
        bytes([*sealed[:-1], sealed[-1] ^ 1]),
        bytes([sealed[0] ^ 1, *sealed[1:]]),
    ):
        with pytest.raises(CannotOpen):
            box.open(bad, b"ann")
    with pytest.raises(CannotOpen):
        box.open(sealed, b"bob")
    with pytest.raises(CannotOpen):
        Box([TWO]).open(sealed, b"ann")


def test_keys_can_be_changed() -> None:
    """The first one seals, all open."""
    old, both, new = Box([ONE]), Box([TWO, ONE]), Box([TWO])
    assert both.open(old.seal(b"x", b""), b"") == b"x"
    assert new.open(both.seal(b"x", b""), b"") == b"x"
    assert repr(both) == "Box(2 keys)"


@pytest.mark.parametrize("text", ["x", KEY[:-4], "é" * 44, f"{KEY},x", ","])
def test_a_key_has_a_form(tmp_path: Path, text: str) -> None:
    """What is no key stops the start, and is not shown."""
    file = tmp_path / "key"
    file.write_text(text)
    with pytest.raises(SettingError) as raised:
        box_of(str(file))
    assert "openssl" in str(raised.value) or "text" in str(raised.value)
    with pytest.raises(SettingError) as raised:
        box_of(None, environment=text)
    assert text.strip(",") not in str(raised.value) or len(text) < 3


def test_a_key_is_in_a_file_or_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file counts; without either there is none."""
    monkeypatch.delenv(VARIABLE, raising=False)
    assert box_of(None) is None
    monkeypatch.setenv(VARIABLE, f" {KEY}\n")
    assert box_of(None) is not None
    with pytest.raises(SettingError):
        box_of(str(tmp_path / "missing"))


def test_without_a_key_only_what_is_harmless_is_kept() -> None:
    """A header that may be a credential is refused by its name, its value is not shown."""
    harmless = ((b"host", b"a"), (b"user-agent", b"b"), (b"x-request-id", b"c"), (b"sec-fetch-site", b"none"))
    vault = Vault(None, ["X-Tenant"])
    assert vault.opened(vault.sealed(Secret(harmless), "ann"), "ann").inherited == harmless
    assert vault.new_secret((*harmless, (b"x-tenant", b"t"))).inherited[-1] == (b"x-tenant", b"t")
    for name in (b"authorization", b"cookie", b"x-whatever"):
        with pytest.raises(Unprocessable) as raised:
            vault.new_secret(((name, b"value"),))
        assert raised.value.code == "secrets_unavailable"
        assert name.decode() in raised.value.detail
        assert "value" not in raised.value.detail
    sealed = Vault(Box([ONE])).sealed(Secret(harmless), "ann")
    with pytest.raises(CannotOpen):
        vault.opened(sealed, "ann")
    with pytest.raises(CannotOpen):
        vault.opened(None, "ann")


# Over HTTP


@on_a_loop
async def test_credentials_are_encrypted_and_dropped(sqlite: Place) -> None:
    """Items are sent with the credentials of the job; on the disk they are never readable, and gone with the end."""
    api = Api()
    items: list[JSON] = [{"path": "/a"}, {"path": "/b", "headers": {"X-API-Key": "own-key-of-this-item", "X-One": "1"}}]
    headers: HeaderMap = {**ASYNC, "authorization": TOKEN}
    async with site(sqlite, api, jobs={"worker": False}) as here:
        path = await here.submitted(items, headers=headers)
        job = await here.store.jobs.get(job_id(path), None)
        assert job.secret
        kept = contents(sqlite.folder)
        assert b"/b" in kept
        assert b"not-to-be-found" not in kept
        assert b"own-key" not in kept
    async with site(sqlite, api) as here:
        await here.ended(path, headers={"authorization": TOKEN})
        assert [each.header("authorization") for each in api.arrived] == [TOKEN, TOKEN]
        [second] = [each for each in api.arrived if each.path == "/b"]
        assert (second.header("x-api-key"), second.header("x-one")) == ("own-key-of-this-item", "1")
        assert (await here.store.jobs.get(job_id(path), None)).secret is None


@on_a_loop
async def test_without_a_key_credentials_are_refused(sqlite: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that would keep one is not taken: 422, and nothing is left; one without is."""
    monkeypatch.delenv(VARIABLE, raising=False)
    jobs: Mapping[str, Any] = {"secret_key_file": None, "anonymous": True}
    async with site(sqlite, jobs=jobs) as here:
        for reply in (
            await here.send([{"path": "/a"}]),
            await here.send([{"path": "/a", "headers": {"Cookie": "a=b"}}], headers={"prefer": "respond-async"}),
            await here.send_lines([{"path": "/a"}], headers=ASYNC),
        ):
            assert (reply.status, reply.problem["code"]) == (422, "secrets_unavailable")
        assert await rows(sqlite) == {}
        path = await here.submitted([{"path": "/a"}], headers={"prefer": "respond-async", "accept-language": "nl"})
        job = await here.ended(path, headers={})
        assert job["counts"]["completed"] == 1


@on_a_loop
async def test_credentials_of_an_item_are_gone_with_its_job(sqlite: Place) -> None:
    """So it cannot be tried again with those of somebody else."""
    api = Api({"/b": answer(status=500)})
    items: list[JSON] = [{"path": "/b", "headers": {"Authorization": "Basic own"}}]
    async with site(sqlite, api, jobs={"work": replace(QUICK, attempts=1)}) as here:
        path = await here.submitted(items)
        await here.ended(path)
        reply = await here.ask("POST", f"{path}/retry")
        assert (reply.status, reply.problem["code"]) == (409, "credentials_gone")


@on_a_loop
async def test_a_job_whose_key_is_missing_waits(sqlite: Place) -> None:
    """A process without the key leaves it to others; one that has it does it."""
    async with site(sqlite, jobs={"worker": False}) as here:
        path = await here.submitted([{"path": "/a"}])
    other = sqlite.folder / "other.key"
    other.write_text(json.dumps("x"))
    other.write_text("b3RoZXJvdGhlcm90aGVyb3RoZXJvdGhlcm90aGVyb3Q=")
    api = Api()
    async with site(sqlite, api, jobs={"secret_key_file": str(other), "wait": 1}) as here:
        job = (await here.get(path, headers={**ANN, "prefer": "wait=1"})).json()
        assert job["finished_at"] is None
        assert api.targets == []


# Whose it is


def scope_with(*headers: tuple[bytes, bytes]) -> Scope:
    return {"type": "http", "headers": list(headers)}


def owner(principal: Any, *headers: tuple[bytes, bytes], anonymous: bool = False) -> str | None:
    found: list[str | None] = []

    async def ask() -> None:
        try:
            found.append(await Owners(principal, anonymous=anonymous).of(scope_with(*headers)))
        except NoPrincipal:
            found.append(None)

    run(ask())
    return found[0]


def test_a_credential_is_a_principal() -> None:
    """All of them together, whichever the order; the owner does not tell which they were."""
    token, key = (b"authorization", b"Bearer x"), (b"x-api-key", b"k")
    owners = [owner("credential", *each) for each in ([token], [key], [token, key], [(b"authorization", b"Bearer y")])]
    assert None not in owners
    assert len({*owners}) == 4
    assert owner("credential", key, token) == owner("credential", token, key)
    assert not any("Bearer" in (each or "") for each in owners)
    assert owner("credential", (b"cookie", b"a=b"), (b"authorization", b"")) is None
    # Where one value ends and the next begins does matter.
    assert owner("credential", (b"api-key", b"ab"), (b"x-api-key", b"c")) != owner(
        "credential", (b"api-key", b"a"), (b"x-api-key", b"bc")
    )


def test_a_header_is_a_principal() -> None:
    """One that came twice says nothing: a client may have added it."""
    assert owner("header:X-User", (b"x-user", b"ann")) == "header:ann"
    assert owner("header:X-User", (b"x-user", b"ann"), (b"x-user", b"bob")) is None
    assert owner("header:X-User", (b"x-user", b" ")) is None
    assert owner("header:X-User") is None
    long = owner("header:X-User", (b"x-user", b"a" * 1000))
    assert long is not None
    assert len(long) < 100


def test_a_cookie_is_a_principal() -> None:
    """Other cookies do not matter."""
    ann = owner("cookie:sid", (b"cookie", b"a=b; sid=1; c=d"))
    assert ann is not None
    assert ann == owner("cookie:sid", (b"cookie", b"sid=1"), (b"cookie", b"x=y"))
    assert ann != owner("cookie:sid", (b"cookie", b"sid=2"))
    assert owner("cookie:sid", (b"cookie", b"sid=1; sid=2")) is None
    assert owner("cookie:sid", (b"cookie", b"xsid=1; sid=")) is None


def test_a_function_is_a_principal() -> None:
    """It may be asynchronous, and say that it is nobody in particular."""

    async def of(scope: Scope) -> str | None:
        return dict(scope["headers"]).get(b"x", b"").decode() or None

    assert owner(of, (b"x", b"ann")) == "own:ann"
    assert owner(lambda scope: "ann") == "own:ann"
    assert owner(of) is None
    assert owner(of, anonymous=True) == "anonymous"
    with pytest.raises(TypeError):
        owner(lambda scope: 7)
    # What no database takes for text is somebody all the same.
    strange = [owner(lambda scope, name=name: name) or "" for name in ("a\0", "a\ud800", "a\n")]
    assert len({*strange}) == 3
    assert all("\0" not in each and each.encode() for each in strange)
    # Text as HTTP servers give it, which UTF-8 is not, stays the name that it was.
    assert owner("header:X", (b"x", "Özgür".encode())) == "header:" + "Özgür".encode().decode("latin-1")
    # Nobody becomes somebody else by choosing his name.
    assert owner("header:X", (b"x", b"credential:1")) == "header:credential:1"


@pytest.mark.parametrize(
    "changed",
    [
        {"principal": "user"},
        {"principal": "header:"},
        {"principal": "header:a b"},
        {"principal": 7},
        {"anonymous": "yes"},
        {"worker": None},
        {"max_items": 0},
        {"plain_headers": "x"},
        {"plain_headers": ["a b"]},
        {"delivery": "never"},
        {"work": 7},
        {"store": "sqlite:///x"},
    ],
)
def test_wrong_settings_are_refused(changed: dict[str, Any]) -> None:
    """Each with its name."""
    with pytest.raises(SettingError) as raised:
        JobsSettings(**{"store": StoreSettings(url="sqlite:///x"), **changed})
    [name] = changed
    assert name in raised.value.setting


@on_a_loop
async def test_the_principal_of_the_settings_owns_the_job(sqlite: Place) -> None:
    """Another token of the same user sees the job, where a header says who that is."""
    async with site(sqlite, jobs={"principal": "header:X-User"}) as here:
        path = location(await here.send([{"path": "/a"}], headers={**ASYNC, "x-user": "ann"}))
        assert (await here.get(path, headers={"authorization": "Bearer new", "x-user": "ann"})).status == 200
        assert (await here.get(path, headers={**ANN, "x-user": "bob"})).status == 404
        assert (await here.get(path, headers=ANN)).status == 403
