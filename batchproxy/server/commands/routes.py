"""`batchproxy routes`: the table, and where one request would go.

Asks the code that decides at run time, the judge of batches and the ways of the proxy; decides nothing itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from .configured import ConfigFile, Upstreams, loaded
from .speaking import Code, console, data, escaped, fail

if TYPE_CHECKING:
    from ...endpoint import Endpoint
    from ...engine.paths import Segments
    from ...engine.policy import Policy
    from ...engine.routing import Route, RouteTable
    from ...proxy.problem import Problem
    from ...proxy.settings import Upstream
    from ...proxy.ways import Way
    from ..openai_settings import OpenAI
    from ..settings import Config

_CAPS = ("max_per_batch", "serial", "timeout", "max_request_bytes", "max_response_bytes")


def routes(
    config: ConfigFile = None,
    upstream: Upstreams = None,
    match: Annotated[
        str | None, typer.Option("--match", metavar="METHOD PATH", help="Where this request would go.")
    ] = None,
    # Not a second value of the option: without it, the parser would take the next flag for one.
    path: Annotated[str | None, typer.Argument(hidden=True, metavar="PATH")] = None,
    host: Annotated[str, typer.Option(help="The Host of that request.")] = "localhost",
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME:VALUE", help="A header of that request.")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The batch endpoint whose policy counts; the first, unless given."),
    ] = None,
) -> None:
    """Print the routes; with --match, what becomes of one item of a batch, and why it is refused if so.

    \b
    Examples:
      batchproxy routes -c batchproxy.yaml
      batchproxy routes -c batchproxy.yaml --match GET /users/7
      batchproxy routes -c batchproxy.yaml --host api.example.com --match DELETE '/users/7?hard=1'

    Exit codes: 0 it would be sent; 1 it would be refused.
    """
    asked = _asked(match, path)
    found = loaded(config, upstream).config
    if asked is None:
        _table(found)
        return
    wanted = [each for each in found.endpoints if endpoint in (None, each.path)]
    if not wanted:
        fail(
            Code.USAGE, f"--endpoint {escaped(endpoint)}: expected one of {', '.join(e.path for e in found.endpoints)}"
        )
    headers = [_header(text) for text in header or ()]
    if not asyncio.run(_matched(found, wanted[0], *asked, host, headers)):
        raise typer.Exit(int(Code.FAILED))


def _asked(match: str | None, path: str | None) -> tuple[str, str] | None:
    """Method and path, or None for the whole table."""
    from ...engine.headers import is_token

    words = [escaped(word) for word in (match, path) if word is not None]
    if words and (match is None or path is None or not is_token(match)):
        example = next((word for word in words if word.startswith("/")), "/users/7")
        fail(Code.USAGE, f"--match {' '.join(words)}: expected a method and a path, such as --match GET {example}")
    return None if match is None or path is None else (match, path)


def _table(config: Config) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("host", "path", "upstream", "address", "methods", "rewrite", "limits"):
        table.add_column(name, overflow="fold")
    for route in config.all_routes:
        upstream = config.upstreams[route.upstream]
        addresses = [upstream.url] if upstream.url is not None else upstream.addresses
        taken = "strip " if route.strip_prefix else ""
        limits = [f"{name}={value}" for name, value in _caps(route)]
        row = (
            route.host or "*", route.path, route.upstream, " ".join(map(str, addresses)),
            "any" if route.methods is None else " ".join(route.methods),
            taken + (f"add {route.add_prefix}" if route.add_prefix else ""), " ".join(limits),
        )  # fmt: skip
        table.add_row(*map(escaped, row))
    console().print(table)


def _header(text: str) -> tuple[bytes, bytes]:
    name, colon, value = text.partition(":")
    if not colon or not name.isascii():
        fail(Code.USAGE, f"--header {escaped(text)}: expected NAME:VALUE")
    if name.strip().lower() == "host":
        fail(Code.USAGE, f"--header {escaped(text)}: expected --host {escaped(value.strip())} in its place")
    return name.strip().lower().encode("ascii"), value.strip().encode("utf-8")


async def _matched(
    config: Config, endpoint: Endpoint | OpenAI, method: str, path: str, host: str, headers: list[tuple[bytes, bytes]]
) -> bool:
    """Prints what becomes of an item; whether it would be sent."""
    from ...engine.paths import readings_of_servers
    from ...engine.routing import RouteTable
    from ...proxy.upstream import LiveUpstream
    from ...proxy.ways import Ways

    table = RouteTable(config.all_routes)
    read = _judged(config, endpoint, table, method, path, host)
    if isinstance(read, list):
        for line in read:
            data(escaped(line))
        return False
    upstreams = {name: LiveUpstream(name, settings) for name, settings in config.upstreams.items()}
    try:
        fields = [(b"host", host.encode("utf-8")), *headers]
        verdict = Ways(table, upstreams).find(method, read[0], read[1], fields, is_canonical=True)
    finally:
        for upstream in upstreams.values():
            await upstream.aclose()
    if isinstance(verdict, tuple):
        _say_way(*verdict, endpoint)
        return True
    paths = readings_of_servers(read[0])
    _say_problem(verdict, table.find(host, paths), method, paths, fields)
    return False


def _judged(
    config: Config, endpoint: Endpoint | OpenAI, table: RouteTable, method: str, path: str, host: str
) -> tuple[bytes, bytes] | list[str]:
    """The item's path and query, or the lines that say why the endpoint refuses it."""
    from ...endpoint import Endpoint
    from ...engine.errors import Failure
    from ...engine.model import Caller, Item, Refusal
    from ...engine.paths import canonical, readings, without_parameters
    from ...engine.policy import Judge

    policy = endpoint if isinstance(endpoint, Endpoint) else endpoint.made().policy("")
    read = canonical(policy.base_path + path, allow_empty_segments=policy.allow_empty_segments)
    refusal: Refusal | None
    reasons: list[str] = []
    if isinstance(read, Refusal):
        refusal = read
    else:
        judge = Judge(
            replace(policy, routes=table),
            Caller(request_id="routes", host=host),
            [each.path for each in config.batch_endpoints],
        )
        refusal = judge.item(Item(0, method, read[0], read[1]))
        if refusal is None:
            return read
        if refusal.failure is Failure.FORBIDDEN:
            exact = readings(read[0])
            reasons = _rules_against(policy, method, (*exact, *map(without_parameters, exact)))
    failure = refusal.failure
    refused = f"refused: {failure.status} {failure} by the endpoint {endpoint.path}: {refusal.detail}"
    return [refused, *(f"because: {each}" for each in reasons)]


def _say_way(way: Way, target: bytes, endpoint: Endpoint | OpenAI) -> None:
    from ...endpoint import Endpoint
    from ...proxy.addresses import located

    route, settings = way.route, way.upstream.settings
    addresses = [settings.url] if settings.url is not None else settings.addresses
    data(f"route: {escaped(route.host or '*')} {escaped(route.path)}")
    data(f"upstream: {escaped(way.upstream.name)}, {_limits(settings)}")
    for url in addresses:
        location = located(url)
        data(f"address: {escaped(location.origin)}")
        data(f"target: {escaped((location.prefix + target).decode('latin-1'))}")
    for name, value in _caps(route):
        data(f"{name}: {value}")
    if isinstance(endpoint, Endpoint):
        data(f"endpoint: {endpoint.path}, item_timeout {endpoint.item_timeout:g} s, concurrency {endpoint.concurrency}")
    else:
        data(f"endpoint: {endpoint.path}, {endpoint.dialect}")


def _caps(route: Route) -> list[tuple[str, str]]:
    """What a route bounds, as the file has it."""
    from ..configuration.printing import shown_value
    from ..configuration.shapes import keys

    known = keys(type(route))
    values = [(name, getattr(route, name)) for name in _CAPS]
    return [(name, shown_value(known[name].shape, value)) for name, value in values if value not in (None, False)]


def _limits(upstream: Upstream) -> str:
    from ..configuration.units import shown_duration

    timeouts = upstream.timeouts
    times = {name: getattr(timeouts, name) for name in ("connect", "first_byte", "idle", "total")}
    told = [f"{name} {shown_duration(value)}" for name, value in times.items() if value is not None]
    return ", ".join([*told, f"max_in_flight {upstream.max_in_flight}"])


def _say_problem(
    problem: Problem, route: Route | None, method: str, paths: tuple[Segments, ...], headers: list[tuple[bytes, bytes]]
) -> None:
    if route is None:
        data(f"refused: {problem.status} {problem.code} by the routes: {escaped(problem.detail)}")
        return
    name = f"{escaped(route.host or '*')} {escaped(route.path)}"
    data(f"refused: {problem.status} {problem.code} by the route {name}: {escaped(problem.detail)}")
    for each in _reasons(problem.code, route, method, paths, {name for name, _ in headers}):
        data(f"because: {escaped(each)}")


def _reasons(code: str, route: Route, method: str, paths: tuple[Segments, ...], headers: set[bytes]) -> Iterator[str]:
    """What clients are not told: which rules, or which headers."""
    if code == "header_missing":
        yield from (
            f"`require_headers` holds {each}" for each in route.require_headers if each.lower().encode() not in headers
        )
    if code == "forbidden":
        yield from _rules_against(route, method, paths)


def _rules_against(ruled: Route | Policy, method: str, paths: Iterable[Segments]) -> list[str]:
    from ...engine.paths import without_trailing_slash

    ends = [without_trailing_slash(path) for path in paths]
    rules = zip(ruled.deny, ruled.deny_rules, strict=True)
    denied = [f"`deny` holds {text}" for text, rule in rules if any(rule.matches(method, each) for each in ends)]
    return denied or ["nothing in `allow` fits"]
