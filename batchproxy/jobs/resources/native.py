"""How jobs of an endpoint are understood: the items that lie in the store become a batch that can be run.

Knows: what submissions put into the store. Must not know: leases, HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from ...engine.model import Batch, Delivery
from ...engine.policy import Judge, Policy
from ...engine.target import Entry
from ..store import Claim, Job, JobState, JobStore, Message
from ..working.kinds import Failed, JobBatch, Unready, connection
from .callbacks import messages
from .secrets import CannotOpen, Vault
from .stored import unpacked_item, unpacked_options

_NOT_VALID = b'{"code":"not_native","detail":"Jobs of this kind come with their items."}'
_UNFINISHED = b'{"code":"contents_gone","detail":"Contents of the job are not there any more."}'


def kind_name(path: str) -> str:
    """The kind of the jobs that come to the endpoint with this path."""
    return f"batch {path}"


class NativeKind:
    """The jobs of one endpoint.

    `policy` is the endpoint's, `entry` says for a `root_path` where items enter, `endpoints` are the paths of the batch
    endpoints below the mount, which no item may reach. `delivery` is that of jobs that do not say another. With
    `callbacks`, callers who asked for it are told of ends.
    """

    def __init__(
        self,
        path: str,
        policy: Policy,
        vault: Vault,
        *,
        entry: Callable[[str], Entry],
        endpoints: Collection[str],
        delivery: Delivery = Delivery.AT_MOST_ONCE,
        callbacks: bool = False,
    ) -> None:
        self.name = kind_name(path)
        self._path = path
        self._policy = policy
        self._vault = vault
        self._entry = entry
        self._endpoints = tuple(endpoints)
        self._delivery = delivery
        self._callbacks = callbacks

    def __repr__(self) -> str:
        return f"NativeKind({self.name!r})"

    async def validate(self, store: JobStore, claim: Claim, job: Job) -> Failed:
        """Items are validated before they are accepted, so that there is nothing to do here."""
        return Failed(error=_NOT_VALID, messages=self._messages(job, JobState.FAILED))

    def batch(self, job: Job, items: Mapping[int, bytes]) -> JobBatch:
        said = unpacked_options(job.options)
        try:
            secret = self._vault.opened(job.secret, job.owner)
            # Items that name others are all there, from the first on: their numbers are those in the batch.
            seqs = sorted(items)
            unpacked = [unpacked_item(index, items[seq], secret) for index, seq in enumerate(seqs)]
        except CannotOpen as fault:
            # With another process's key it may work; until then the credentials of its caller are not at hand.
            raise Unready(f"The secret of the job {job.id} cannot be opened: {fault}") from None
        caller = msgspec.structs.replace(said.caller, inherited=secret.inherited)
        batch = Batch(
            id=job.id,
            dialect="native",
            items=tuple(item for item, _ in unpacked),
            caller=caller,
            options=said.options,
            refused={item.index: refusal for item, refusal in unpacked if refusal is not None},
        )
        return JobBatch(
            batch=batch,
            seqs=seqs,
            policy=self._policy,
            judge=Judge(self._policy, caller, [caller.mount + path for path in self._endpoints]),
            entry=self._entry(caller.root_path),
            connection=connection(caller),
            delivery=said.options.delivery or self._delivery,
        )

    async def finish(self, store: JobStore, claim: Claim, job: Job) -> Sequence[Message]:
        return self._messages(job, job.ending)

    def unfinished(self, job: Job) -> Failed:
        return Failed(error=_UNFINISHED, messages=self._messages(job, JobState.FAILED))

    def _messages(self, job: Job, end: JobState | None) -> Sequence[Message]:
        """Where nobody sends any, none is left to lie."""
        return messages(job, unpacked_options(job.options).options, end) if self._callbacks else ()
