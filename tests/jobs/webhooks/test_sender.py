"""What is in the outbox is sent, at least once, by whatever number of senders, and comes to an end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from batchproxy.engine.errors import SettingError
from batchproxy.jobs.store import Message, StoreBusy, StoreReadOnly, Taken, opened
from batchproxy.jobs.webhooks import WebhookSender, schedule
from batchproxy.jobs.webhooks.schedule import DELAYS
from tests.jobs.place import START, Place, claim, settle, submit
from tests.jobs.processes import started
from tests.proxy.on_a_loop import PATIENCE, on_a_loop
from tests.proxy.scripted import Peer

from .processes import send
from .sending import (
    NO_CONTENT,
    OTHER,
    SECRET,
    VARIABLE,
    emptied,
    failures,
    left,
    receiving,
    resolving,
    settings,
    settled,
    silence,
    tell,
    until,
    writing,
)

DAY = 86_400
FAILED = b"HTTP/1.1 500 Whatever\r\n\r\n"


class Time:
    """What the sender takes for the time of day."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@on_a_loop
async def test_the_end_of_a_job_is_told(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """To each receiver once; the reference library believes it, the outbox is empty, and the log has its id."""
    caplog.set_level(logging.INFO, "batchproxy")
    async with place.opened() as store, receiving() as receiver:
        async with WebhookSender(store, settings(receiver.port)) as sender:
            job_id = await tell(store, receiver.url, times=2)
            requests = await receiver.got(2)
            await emptied(place)
            await settled(sender)
        for each in requests:
            said = each.verified()
            assert said["type"] == "batch.job.completed"
            assert said["data"] == {"id": job_id, "kind": "batch", "state": "completed"}
        assert {each.id for each in requests} == {f"{job_id}_batch_job_completed_{n}" for n in range(2)}
        assert all(f"webhook.delivered: message={each.id} " in caplog.text for each in requests)


@on_a_loop
async def test_what_was_there_before_is_told(place: Place) -> None:
    """Without any hint."""
    async with place.opened() as store, receiving() as receiver:
        await tell(store, receiver.url)
        async with WebhookSender(store, settings(receiver.port)):
            await receiver.got(1)
            await emptied(place)


@on_a_loop
async def test_ten_tries_by_the_schedule(place: Place) -> None:
    """Each with the same id and a new time, signed anew; none before its time. Then it is given up, and kept."""
    time = Time()
    async with place.opened() as store, receiving(writing(FAILED)) as receiver:
        said = settings(receiver.port)
        async with WebhookSender(store, said, now=time, chance=lambda: 0.5) as sender:
            await tell(store, receiver.url)
            for failed, expected in enumerate(DELAYS, 1):
                due, detail = await failures(place, failed)
                assert detail == "answered 500"
                assert due == pytest.approx(expected)
                place.clock.now += expected - 1
                assert await store.outbox.take() == []
                assert len(receiver.received) == failed
                time.now += expected
                place.clock.now += 1
            assert await failures(place, 10) == (None, "answered 500")
            place.clock.now += 30 * DAY
            assert await store.outbox.take() == []
            await settled(sender)
        assert len({each.id for each in receiver.received}) == 1
        assert [each.timestamp for each in receiver.received] == [
            1_700_000_000 + int(sum(DELAYS[:tries])) for tries in range(10)
        ]
        assert len({each.headers["webhook-signature"] for each in receiver.received}) == 10
        assert len({each.body for each in receiver.received}) == 1


async def given_up(place: Place, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while [each[1] for each in await left(place)] != [None] * count:
            await asyncio.sleep(0.01)


async def resets(peer: Peer) -> None:
    peer.reset()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (writing(b"HTTP/1.1 302 Found\r\nlocation: /other\r\n\r\n"), "answered 302"),
        (writing(b"HTTP/1.1 404 Not Found\r\n\r\n"), "answered 404"),
        (resets, "Connection|ended after 0 bytes"),
        (silence, "no answer within"),
    ],
    ids=["redirect", "not found", "reset", "silence"],
)
@on_a_loop
async def test_whatever_is_no_success_is_tried_again(sqlite: Place, answer: Any, told: str) -> None:
    """And only then: nothing followed the redirect."""
    timeout = 1 if answer is silence else 10
    async with sqlite.opened() as store, receiving(answer) as receiver:
        async with WebhookSender(store, settings(receiver.port, timeout=timeout), chance=lambda: 0.5):
            await tell(store, receiver.url)
            due, detail = await failures(sqlite, 1)
            assert due == 5
            assert any(each in detail for each in told.split("|"))
            assert len(receiver.received) == 1
        receiver.answer = writing(NO_CONTENT)
        sqlite.clock.now += 5
        async with WebhookSender(store, settings(receiver.port)):
            await emptied(sqlite)
        assert len({each.id for each in receiver.received}) == 1
        assert len(receiver.received) == 2


@on_a_loop
async def test_a_wish_for_later_is_respected(sqlite: Place) -> None:
    busy = writing(b"HTTP/1.1 503 Busy\r\nRetry-After: 3600\r\n\r\n")
    async with sqlite.opened() as store, receiving(busy) as receiver, WebhookSender(store, settings(receiver.port)):
        await tell(store, receiver.url)
        assert await failures(sqlite, 1) == (3600, "answered 503")


@on_a_loop
async def test_gone_disables_the_receiver(place: Place) -> None:
    """The message is given up at once; what else is for that URL is not sent, what is for another is."""
    async with place.opened() as store, receiving(writing(b"HTTP/1.1 410 Gone\r\n\r\n")) as receiver:
        async with WebhookSender(store, settings(receiver.port, per_host=1)):
            await tell(store, receiver.url, times=3)
            await given_up(place, 3)
            await tell(store, receiver.url)
            await given_up(place, 4)
            before = "It has answered 410 before."
            assert sorted(each[2] for each in await left(place)) == [before, before, before, "answered 410"]
            receiver.answer = writing(NO_CONTENT)
            await tell(store, receiver.url + "&other")
            await receiver.got(2)
        assert [each.first for each in receiver.received] == [
            "POST /hook?from=us HTTP/1.1",
            "POST /hook?from=us&other HTTP/1.1",
        ]


@on_a_loop
async def test_a_secret_is_rotated_while_it_is_used(sqlite: Place, tmp_path: Path) -> None:
    """Without a restart: with both, each receiver believes it; afterwards only who has the new one."""
    file = tmp_path / "secret"
    file.write_text(SECRET)
    said = {"secrets": {"default": [f"file:{file}"]}}
    async with (
        sqlite.opened() as store,
        receiving() as receiver,
        WebhookSender(store, settings(receiver.port, **said)),
    ):
        for count, content in enumerate((SECRET, f"{OTHER}\n{SECRET}\n", OTHER), 1):
            file.write_text(content)
            await tell(store, receiver.url)
            await receiver.got(count)
        await emptied(sqlite)
    before, meanwhile, after = receiver.received
    assert [each.headers["webhook-signature"].count("v1,") for each in receiver.received] == [1, 2, 1]
    before.verified(SECRET)
    meanwhile.verified(SECRET)
    meanwhile.verified(OTHER)
    after.verified(OTHER)


@on_a_loop
async def test_no_secret_is_anywhere_in_the_outbox(sqlite: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Nor in the log; where it is sent to is in the log by its host alone."""
    caplog.set_level(logging.DEBUG, "batchproxy")
    async with sqlite.opened() as store, receiving(writing(FAILED)) as receiver:
        async with WebhookSender(store, settings(receiver.port)):
            await tell(store, f"http://127.0.0.1:{receiver.port}/private-path")
            await failures(sqlite, 1)
        sqlite.clock.now += DAY
        [taken] = await store.outbox.take()
        assert SECRET.encode() not in taken.target + taken.payload
    assert SECRET not in caplog.text
    assert "private-path" not in caplog.text
    assert "webhook.failed" in caplog.text


@on_a_loop
async def test_the_url_of_the_settings_is_not_in_the_outbox(place: Place) -> None:
    """A message to it goes where the settings of its sender say then; as long as they say nothing, it waits."""
    async with place.opened() as store, receiving() as receiver, receiving(writing(FAILED)) as earlier:
        both = settings(receiver.port, earlier.port)
        await tell(store, None)
        async with WebhookSender(store, both, url=earlier.url):
            await failures(place, 1)
        place.clock.now += DAY
        async with WebhookSender(store, both):
            _, detail = await failures(place, 2)
            assert "which have none any more" in detail
        place.clock.now += DAY
        [taken] = await store.outbox.take(lease=0)
        assert b"http" not in taken.target
        async with WebhookSender(store, both, url=receiver.url):
            await receiver.got(1)
            await emptied(place)
        assert (len(earlier.received), len(receiver.received)) == (1, 1)


@on_a_loop
async def test_a_secret_that_is_gone_is_waited_for(sqlite: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent unsigned; the try counts as failed."""
    async with sqlite.opened() as store, receiving() as receiver:
        async with WebhookSender(store, settings(receiver.port)):
            monkeypatch.delenv(VARIABLE)
            await tell(store, receiver.url)
            _, detail = await failures(sqlite, 1)
            assert VARIABLE in detail
            await tell(store, receiver.url, secret="other")
            monkeypatch.setenv(VARIABLE, SECRET)
            sqlite.clock.now += 10
            await receiver.got(1)
        assert len(receiver.received) == 1


def test_a_sender_without_its_secrets_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(SettingError, match=VARIABLE):
        WebhookSender(None, settings())  # type: ignore[arg-type]


# Where nothing is sent to


@on_a_loop
async def test_addresses_inside_are_refused(place: Place) -> None:
    """A name that leads there now is tried again, for it may lead elsewhere then; a URL that never can is given up."""
    where = {"hooks.example": ["127.0.0.1"]}
    async with place.opened() as store, receiving() as receiver:
        closed = settings(receiver.port, allow=["127.0.0.7"])
        async with WebhookSender(store, closed, resolve=resolving(where), chance=lambda: 0.5):
            await tell(store, f"http://hooks.example:{receiver.port}/")
            assert await failures(place, 1) == (5, "hooks.example resolves to 127.0.0.1: nothing is sent there")
            assert receiver.upstream.peers == []
        [message] = await left(place)
        place.clock.now += 10
        async with WebhookSender(store, settings(receiver.port), resolve=resolving(where)):
            await emptied(place)
        async with WebhookSender(store, closed, resolve=resolving(where)):
            await tell(store, receiver.url)
            assert await failures(place, 1) == (None, "Nothing is sent to this address.")
    assert len(receiver.received) == 1
    assert message[0] == 1


@on_a_loop
async def test_a_message_that_is_no_webhook_is_given_up(sqlite: Place) -> None:
    """It does not stop the others."""
    async with sqlite.opened() as store, receiving() as receiver:
        job = await submit(store, 1)
        await settle(store, await claim(store))
        odd = Message(event="batch.job.completed", target=b"\xff", payload=b"")
        await store.ending.finish((await claim(store)).lease, messages=[odd])
        async with WebhookSender(store, settings(receiver.port)):
            await tell(store, receiver.url)
            await receiver.got(1)
            due, detail = await failures(sqlite, 1)
        assert (due, job.id in receiver.received[0].id) == (None, False)
        assert "not that of a webhook" in detail


# Several senders, and lost ones


@on_a_loop
async def test_two_senders_share_the_work(place: Place) -> None:
    """On one outbox, through stores of their own: each message once."""
    async with place.opened() as store, place.opened() as other, receiving() as receiver:
        said = settings(receiver.port, per_host=8)
        jobs = [await tell(store, receiver.url, times=5) for _ in range(8)]
        async with WebhookSender(store, said), WebhookSender(other, said):
            await receiver.got(40)
            await emptied(place)
        assert sorted(each.id for each in receiver.received) == sorted(
            f"{job_id}_batch_job_completed_{n}" for job_id in jobs for n in range(5)
        )


@on_a_loop
async def test_a_killed_sender_loses_nothing(place: Place) -> None:
    """Its message is another's at the end of the lease, with the same id; it had not counted as a try."""
    async with place.opened() as store, receiving(silence) as receiver:
        await tell(store, receiver.url)
        process = started(send, place.url, place.folder, receiver.port)
        try:
            await receiver.got(1)
        finally:
            process.kill()
            await asyncio.to_thread(process.join)
            process.close()
        receiver.answer = writing(NO_CONTENT)
        async with WebhookSender(store, settings(receiver.port)):
            place.clock.now = START + 39
            [(attempt, due, _)] = await left(place)
            assert attempt == 0
            assert due == pytest.approx(1)
            place.clock.now = START + 40
            await emptied(place)
        lost, sent = receiver.received
        assert (lost.id, lost.body) == (sent.id, sent.body)
        assert lost.verified() == sent.verified()


@on_a_loop
async def test_a_sender_that_stops_ends_what_it_began(sqlite: Place) -> None:
    """What is under way is told to the outbox; what waited for its turn is handed back, and due at once."""
    may_answer = asyncio.Event()

    async def later(peer: Peer) -> None:
        await may_answer.wait()
        await peer.write(NO_CONTENT)

    async with sqlite.opened() as store, receiving(later) as receiver:
        await tell(store, receiver.url, times=3)
        sender = WebhookSender(store, settings(receiver.port, per_host=1, grace=20))
        async with sender:
            await receiver.got(1)
            await until(lambda: "in_hand=3" in repr(sender))
            asyncio.get_running_loop().call_soon(may_answer.set)
        assert "in_hand=0, hosts=0" in repr(sender)
        assert len(receiver.received) == 1
        assert [each[0] for each in await left(sqlite)] == [0, 0]
        assert [each[1] for each in await left(sqlite)] == pytest.approx([0, 0])


@on_a_loop
async def test_a_sender_that_stops_does_not_wait_for_ever(sqlite: Place) -> None:
    """After its grace, what is under way is cut off, and another sends it again."""
    async with sqlite.opened() as store, receiving(silence) as receiver:
        async with WebhookSender(store, settings(receiver.port, grace=0)):
            await tell(store, receiver.url)
            await receiver.got(1)
        await receiver.upstream.peers[0].ended.wait()
        receiver.answer = writing(NO_CONTENT)
        async with WebhookSender(store, settings(receiver.port)):
            await emptied(sqlite)
        assert receiver.received[0].id == receiver.received[1].id


@on_a_loop
async def test_a_sender_that_stops_does_not_wait_for_its_store(
    sqlite: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it cannot hand back then is another's at the end of the lease."""

    async def release(messages: Sequence[Taken]) -> None:
        assert len(messages) == 1
        raise StoreReadOnly("it may not be written")

    async with sqlite.opened() as store, receiving(silence) as receiver:
        monkeypatch.setattr(store.outbox, "release", release)
        async with WebhookSender(store, settings(receiver.port, grace=0)):
            await tell(store, receiver.url)
            await receiver.got(1)
        assert [each[1] for each in await left(sqlite)] == pytest.approx([40])
    assert "webhooks.left" in caplog.text


@on_a_loop
async def test_a_message_is_sent_when_it_is_due(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the next look, which may be long after that; a new one is not waited for either."""
    monkeypatch.setattr(schedule, "DELAYS", (0.3, 0.3))
    async with (
        opened(place.settings()) as store,
        receiving(writing(FAILED, NO_CONTENT)) as receiver,
        WebhookSender(store, settings(receiver.port, poll=1000)),
    ):
        await tell(store, receiver.url)
        await receiver.got(2)
        await tell(store, receiver.url)
        await receiver.got(3)


# Bounds


class Gate:
    """Answers nobody until it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        await self.open.wait()
        await peer.write(NO_CONTENT)


@on_a_loop
async def test_a_host_that_is_slow_keeps_nobody_waiting(sqlite: Place) -> None:
    """It gets `per_host` requests at once; the others go on meanwhile."""
    slow, quick = Gate(), writing(NO_CONTENT)
    where = resolving({"slow.example": ["127.0.0.1"], "quick.example": ["127.0.0.1"]})
    async with sqlite.opened() as store, receiving(slow) as one, receiving(quick) as other:
        said = settings(one.port, other.port, per_host=2, concurrency=3)
        await tell(store, f"http://slow.example:{one.port}/", times=12)
        async with WebhookSender(store, said, resolve=where):
            await one.got(2)
            await tell(store, f"http://quick.example:{other.port}/", times=5)
            await other.got(5)
            assert len(one.received) == 2
            slow.open.set()
            await one.got(12)
            await emptied(sqlite)
        assert (one.most, other.most) == (2, 1)


@on_a_loop
async def test_all_hosts_together_are_bounded(sqlite: Place) -> None:
    gate = Gate()
    hosts = {f"h{n}.example": ["127.0.0.1"] for n in range(6)}
    async with sqlite.opened() as store, receiving(gate) as receiver:
        for host in hosts:
            await tell(store, f"http://{host}:{receiver.port}/", times=2)
        said = settings(receiver.port, per_host=2, concurrency=4)
        async with WebhookSender(store, said, resolve=resolving(hosts)) as sender:
            await receiver.got(4)
            await until(lambda: "in_hand=12" in repr(sender))
            assert len(receiver.received) == 4
            gate.open.set()
            await emptied(sqlite)
            await settled(sender)
            assert "hosts=0" in repr(sender)
        assert receiver.most == 4


@on_a_loop
async def test_what_waits_too_long_is_left_to_others(sqlite: Place) -> None:
    """A message is not sent by who may have lost it meanwhile: it comes again, with the same number of tries."""
    async with sqlite.opened() as store, receiving(silence) as receiver:
        await tell(store, receiver.url, times=12)
        async with WebhookSender(store, settings(receiver.port, per_host=1, timeout=0.5)) as sender:
            while not any(attempt for attempt, _, _ in await left(sqlite)):
                await asyncio.sleep(0.01)
            await settled(sender)
            attempts = [attempt for attempt, _, _ in await left(sqlite)]
            assert set(attempts) == {0, 1}
        receiver.answer = writing(NO_CONTENT)
        sqlite.clock.now += 10
        async with WebhookSender(store, settings(receiver.port)):
            await emptied(sqlite)


# The store


@on_a_loop
async def test_a_store_that_is_busy_is_waited_for(sqlite: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """At taking, and at telling that it is done: it is not sent again for that."""
    async with sqlite.opened() as store, receiving() as receiver:
        refusals = {"take": 2, "done": 2}

        def refusing(name: str) -> None:
            original = getattr(store.outbox, name)

            async def act(*arguments: Any, **said: Any) -> Any:
                if refusals[name]:
                    refusals[name] -= 1
                    raise StoreBusy("somebody else has it")
                return await original(*arguments, **said)

            monkeypatch.setattr(store.outbox, name, act)

        refusing("take")
        refusing("done")
        await tell(store, receiver.url)
        async with WebhookSender(store, settings(receiver.port)):
            await emptied(sqlite)
        assert (refusals, len(receiver.received)) == ({"take": 0, "done": 0}, 1)


@on_a_loop
async def test_a_message_that_another_has_by_now_is_left_to_him(
    sqlite: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object, **__: object) -> list[Taken]:
        return []

    gate = Gate()
    async with sqlite.opened() as store, receiving(gate) as receiver:
        await tell(store, receiver.url)
        async with WebhookSender(store, settings(receiver.port, poll=1000)) as sender:
            await receiver.got(1)
            take = store.outbox.take
            monkeypatch.setattr(store.outbox, "take", nothing)
            # Behind the look for more that the sender may have begun by now.
            assert await take() == []
            sqlite.clock.now += 41
            [taken] = await take()
            gate.open.set()
            await settled(sender)
            assert await store.outbox.done(taken)
    assert "webhook.lost" in caplog.text


@on_a_loop
async def test_what_cannot_be_told_to_the_store_is_sent_again(sqlite: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least once: with the same id, so that who gets it twice can tell."""
    async with sqlite.opened() as store, receiving() as receiver:
        with monkeypatch.context() as patched:

            async def done(message: Taken) -> bool:
                raise StoreReadOnly("it may not be written")

            patched.setattr(store.outbox, "done", done)
            await tell(store, receiver.url)
            async with WebhookSender(store, settings(receiver.port)) as sender:
                await receiver.got(1)
                await settled(sender)
        assert [each[0] for each in await left(sqlite)] == [0]
        sqlite.clock.now += 40
        async with WebhookSender(store, settings(receiver.port)):
            await emptied(sqlite)
        assert receiver.received[0].id == receiver.received[1].id
        assert len(receiver.received) == 2
