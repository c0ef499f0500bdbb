"""`Judge`: what the policy says of each item, and how it counts. (What makes a setting wrong: `tests/protocol`.)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, strategies as st

from batchproxy import Batch, Caller, Failure, Item, Refusal
from batchproxy.engine.model import Template
from batchproxy.engine.paths import canonical
from batchproxy.engine.policy import Judge, Limits, Policy

CALLER = Caller("r")


def item_at(path: str, *, index: int = 0, method: str = "GET", **more: Any) -> Item:
    read = canonical(path)
    assert isinstance(read, tuple), path
    return Item(index, method, *read, **more)


def verdict(item: Item, caller: Caller = CALLER, **settings: Any) -> Failure | None:
    refusal = Judge(Policy(**settings), caller, ["/batch"]).item(item)
    return None if refusal is None else refusal.failure


# Limits


@pytest.mark.parametrize(
    ("settings", "within", "beyond", "failure"),
    [
        ({"max_item_bytes": 3}, {"body": b"abc"}, {"body": b"abcd"}, Failure.BODY_TOO_LARGE),
        ({"max_headers": 1}, {"headers": ((b"a", b"1"),)}, {"headers": ((b"a", b"1"),) * 2}, Failure.HEADERS_TOO_LARGE),
        ({"max_headers": 0}, {}, {"headers": ((b"a", b"1"),)}, Failure.HEADERS_TOO_LARGE),
        ({"max_header_bytes": 3}, {"headers": ((b"a", b"12"),)}, {"headers": ((b"a", b"123"),)},
         Failure.HEADERS_TOO_LARGE),
    ],
)  # fmt: skip
def test_a_limit_is_what_is_still_allowed(
    settings: dict[str, Any], within: dict[str, Any], beyond: dict[str, Any], failure: Failure
) -> None:
    """What reaches a limit is permitted; one more is refused with its own code."""
    assert verdict(item_at("/a", **within), **settings) is None
    assert verdict(item_at("/a", **beyond), **settings) is failure


def test_path_and_query_count_together() -> None:
    """`max_path_bytes` is for path and query together, without the question mark."""
    assert verdict(item_at("/abc?de"), max_path_bytes=6) is None
    assert verdict(item_at("/abc?def"), max_path_bytes=6) is Failure.PATH_TOO_LONG


@pytest.mark.parametrize("number", [10**400, 2**63])
def test_a_limit_may_be_any_integer(number: int) -> None:
    """A limit may be as large as one likes."""
    assert Limits(max_items=number).max_items == number


# One reading or two


SPELLINGS = st.lists(
    st.sampled_from(["/", "batch", "%62atch", "admin", "a", "%2F", "%2f", "/batch", "x%20", "..."]), max_size=5
).map(lambda parts: "/" + "".join(parts))


@given(SPELLINGS)
def test_the_short_way_judges_as_the_long_one(path: str) -> None:
    """A policy without rules looks at a plain path at a glance, and says what one with rules says after reading it."""
    read = canonical(path)
    if isinstance(read, Refusal):
        return
    item = Item(0, "GET", *read)
    assert verdict(item) == verdict(item, deny=["/no/such/path"]) == verdict(item, max_per_batch={"/no/such": 1})
    assert verdict(item) in (None, Failure.NESTED_BATCH)


@given(SPELLINGS, st.sampled_from(["/admin", "/admin/**", "/a/*", "/**"]))
def test_what_is_denied_is_not_allowed_by_another_spelling(path: str, rule: str) -> None:
    """Deny goes by either reading, allow by both: no path is let through by both an allow and a deny of one rule."""
    read = canonical(path)
    if isinstance(read, Refusal):
        return
    item = Item(0, "GET", *read)
    if verdict(item) is None:
        denied, allowed = verdict(item, deny=[rule]), verdict(item, allow=[rule])
        assert Failure.FORBIDDEN in (denied, allowed)
        assert verdict(item, deny=[rule], allow=[rule]) is Failure.FORBIDDEN


# Mounts


@pytest.mark.parametrize(
    ("path", "failure"),
    [
        ("/m/a", None),
        ("/m", None),
        ("/m/", None),
        ("/mm/a", Failure.INVALID_PATH),
        ("/a", Failure.INVALID_PATH),
        ("/m%2Fa", Failure.INVALID_PATH),
        ("/%6D/a", None),
        ("/m/batch", Failure.NESTED_BATCH),
        ("/m/%62atch/", Failure.NESTED_BATCH),
    ],
)
def test_under_a_mount_both_readings_lie_below_it(path: str, failure: Failure | None) -> None:
    """An item below a mount stays there in both readings, segment by segment, and reaches no batch endpoint there."""
    judge = Judge(Policy(), Caller("r", mount="/m", root_path="/m"), ["/m/batch"])
    refusal = judge.item(item_at(path))
    assert (refusal and refusal.failure) is failure


@pytest.mark.parametrize("path", ["/admin", "/m/admin", "/%61dmin/", "/m/admin%2F", "/m%2Fadmin"])
@pytest.mark.parametrize("rule", ["/admin", "/m/admin", "GET /m/*n"])
def test_with_a_root_path_a_rule_speaks_of_both_spellings(path: str, rule: str) -> None:
    """Where a server's `root_path` may stand in a path or not, deny and caps know the path with and without it."""
    caller = Caller("r", root_path="/m")
    assert verdict(item_at(path), caller, deny=[rule]) is Failure.FORBIDDEN
    assert verdict(item_at(path), caller, max_per_batch={rule: 0}) is Failure.TOO_MANY_FOR_ROUTE


# Counting


def judged(judge: Judge, *items: Item, refused: Mapping[int, Refusal] | None = None) -> dict[int, Failure]:
    batch = judge.batch(Batch("b", "native", items, CALLER, refused=refused or {}))
    return {index: refusal.failure for index, refusal in batch.refused.items()}


def paths(*texts: str, **more: Any) -> list[Item]:
    return [item_at(text, index=index, **more) for index, text in enumerate(texts)]


def test_a_cap_counts_what_may_run() -> None:
    """An item that is refused for something else does not use up the cap of its route."""
    judge = Judge(Policy(max_per_batch={"/login": 1}, methods=["GET"], deny=["/login/x"]), CALLER, [])
    items = [
        item_at("/login", index=0, method="POST"),
        item_at("/login", index=1),
        item_at("/login", index=2),
    ]
    assert judged(judge, *items) == {0: Failure.METHOD_REFUSED, 2: Failure.TOO_MANY_FOR_ROUTE}


def test_what_was_refused_before_is_not_judged() -> None:
    """An item that the reader refused keeps its reason and counts for no cap."""
    judge = Judge(Policy(max_per_batch={"/a": 1}), CALLER, [])
    refused = {0: Refusal(Failure.INVALID_BODY, "no")}
    assert judged(judge, *paths("/a", "/a", "/a"), refused=refused) == {
        0: Failure.INVALID_BODY,
        2: Failure.TOO_MANY_FOR_ROUTE,
    }


def test_every_cap_that_matches_counts() -> None:
    """Several caps may match one item: the first that is used up refuses it, and then no other counts it."""
    judge = Judge(Policy(max_per_batch={"/a/*": 2, "/a/b": 1, "GET /**": 3}), CALLER, [])
    items = paths("/a/b", "/a/b", "/a/c", "/a/c", "/x", "/y")
    assert judged(judge, *items) == dict.fromkeys((1, 3, 5), Failure.TOO_MANY_FOR_ROUTE)


def test_what_waits_for_values_is_counted_when_it_has_them() -> None:
    """An item with values to come is judged by all but its path at first, and counts for a cap only when completed."""
    judge = Judge(Policy(max_per_batch={"/a": 1}, max_item_bytes=2), CALLER, [])
    template = Template((), "/{x}", False)
    items = [
        Item(0, "GET", b"", template=template),
        item_at("/a", index=1),
        Item(2, "GET", b"", template=template, body=b"123"),
    ]
    assert judged(judge, *items) == {2: Failure.BODY_TOO_LARGE}
    refusal = judge.item(item_at("/a"))
    assert refusal is not None
    assert refusal.failure is Failure.TOO_MANY_FOR_ROUTE
    # Without a path it cannot be on the list of what is allowed.
    assert judged(Judge(Policy(allow=["/a"]), CALLER, []), items[0]) == {}


def test_each_batch_is_counted_for_itself() -> None:
    """A judge counts for one batch; the policy has no memory."""
    policy = Policy(max_per_batch={"/a": 1})
    for _ in range(2):
        assert judged(Judge(policy, CALLER, []), *paths("/a", "/a")) == {1: Failure.TOO_MANY_FOR_ROUTE}


def test_a_batch_without_refusals_is_the_batch() -> None:
    """A batch in which everything may run is passed on as it is."""
    batch = Batch("b", "native", tuple(paths("/a", "/b")), CALLER)
    assert Judge(Policy(), CALLER, ["/batch"]).batch(batch) is batch


# Guards refuse through the batch


def test_refusing_an_item_makes_another_batch() -> None:
    """`Batch.refuse` leaves the batch itself as it was, and knows which items there are."""
    batch = Batch("b", "native", tuple(paths("/a", "/b")), CALLER)
    refused = batch.refuse(1, "no").refuse(0, "never", failure=Failure.HEADER_REFUSED)
    assert batch.refused == {}
    assert refused.refused == {1: Refusal(Failure.FORBIDDEN, "no"), 0: Refusal(Failure.HEADER_REFUSED, "never")}
    for index in (-1, 2):
        with pytest.raises(IndexError, match="2 items"):
            batch.refuse(index, "no")
