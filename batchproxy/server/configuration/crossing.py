"""What concerns several objects at once: names that lead nowhere, routes that are never taken, limits that contradict.

It looks at the tree where it can, so that a mistake in one object hides none between others. Settings that work, but
hardly as they were meant, are warnings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from ...engine.paths import Rule, rule, without_trailing_slash
from ..openai_settings import OpenAI
from ..settings import Config
from .checking import imported
from .listening import is_self, listeners
from .located import Origin, Report, brief
from .node import Node
from .printing import shown_value
from .shapes import keys

_FAST = 1024 * 1024
# The first of two may not be more than the second, which holds as well.
_ENDPOINT_LIMITS = (
    ("max_item_bytes", "max_batch_bytes"),
    ("max_response_bytes", "max_total_response_bytes"),
    ("max_var_bytes", "max_batch_bytes"),
    ("item_timeout", "batch_timeout"),
    ("read_timeout", "read_total_timeout"),
)


def cross_check(
    root: Node, config: Config | None, report: Report, *, wrong: Collection[str] = (), partly: Collection[str] = ()
) -> None:
    """Reports what is wrong between objects, but for the sections that are `wrong` by themselves.

    Of those that are only `partly` wrong, the configuration has the right members, and None in the place of others.
    """
    if root.value is None or isinstance(root.value, dict):
        _names(root, report)
    if config is None:
        return
    for section, check in (
        ("endpoints", _endpoints),
        ("routes", _routes),
        ("upstreams", _upstreams),
        ("upstreams", _loops),
    ):
        if section not in wrong or section in partly:
            check(root, config, report)
    if "jobs" not in wrong:
        _jobs(root, config, report)
        if "endpoints" not in wrong and "upstreams" not in wrong:
            _names_in_jobs(root, config, report)


def child(node: Node | None, *steps: str | int) -> Node | None:
    """The node below another, as far as there is one."""
    for step in steps:
        value = node.value if node is not None else None
        if isinstance(step, int):
            node = value[step] if isinstance(value, list) and step < len(value) else None
        else:
            node = value.get(step) if isinstance(value, dict) else None
    return node


def place(root: Node, *steps: str | int) -> Origin:
    """Where something is written, or the nearest thing around it."""
    for length in range(len(steps), 0, -1):
        found = child(root, *steps[:length])
        if found is not None:
            # An error about a single value shows the value.
            is_value = length == len(steps) and not isinstance(found.value, dict | list)
            return found.place_of_value if is_value else found.place
    return root.origin


def _names(root: Node, report: Report) -> None:
    """Upstreams: at least one, each used, each that a route names there."""
    upstreams = child(root, "upstreams")
    known = upstreams.value if upstreams is not None and isinstance(upstreams.value, dict) else {}
    if not known and (upstreams is None or not upstreams.value):
        report.error(
            place(root, "upstreams"), "there is no upstream, expected `upstreams` with one, or `--upstream URL`"
        )
    routes = child(root, "routes")
    used = set()
    if routes is None or not isinstance(routes.value, list) or not routes.value:
        if len(known) > 1:
            message = f"there are {len(known)} upstreams and no routes, expected a route to each"
            report.error(place(root, "upstreams"), message)
        return
    for route in routes.value:
        name = child(route, "upstream")
        if name is None or not isinstance(name.value, str) or not name.value:
            continue
        used.add(name.value)
        if name.value not in known:
            near = report.suggestion(name.value, list(known)) or (f": {', '.join(list(known)[:20])}" if known else "")
            what = f"unknown upstream {name.shown}, expected one of `upstreams`"
            report.error(name.origin, what + ("" if name.secret else near))
    for name, node in known.items():
        if name not in used:
            report.warn(node.place, f"upstream {brief(name)} is used by no route")


def _present(members: Iterable[Any]) -> list[tuple[int, Any]]:
    """Those that are right, with their positions."""
    return [(position, each) for position, each in enumerate(members) if each is not None]


def _endpoints(root: Node, config: Config, report: Report) -> None:
    if not config.endpoints:
        report.error(place(root, "endpoints"), "there is no endpoint, expected at least one, or no `endpoints` at all")
    first: dict[str, int] = {}
    for position, endpoint in _present(config.endpoints):
        at = ("endpoints", position)
        if endpoint.path in first:
            other = place(root, "endpoints", first[endpoint.path])
            message = f"endpoint path {brief(endpoint.path)} is there twice, expected it once; the first is at {other}"
            report.error(place(root, *at, "path"), message)
        first.setdefault(endpoint.path, position)
        _limits(root, at, endpoint, report)
        if isinstance(endpoint, OpenAI):
            _api(root, at, config, endpoint, report)
            continue
        places = config.server.max_in_flight + config.server.max_queue
        if endpoint.concurrency > places:
            expected = f"expected at most `server.max_in_flight` and `max_queue` together, which are {places}"
            message = f"`concurrency` is `{endpoint.concurrency}`, {expected}: a batch that uses it is always refused"
            report.error(place(root, *at, "concurrency"), message)
        elif endpoint.concurrency > config.server.max_in_flight and child(root, *at, "concurrency") is not None:
            message = f"`concurrency` is more than `server.max_in_flight`, which is {config.server.max_in_flight}"
            report.warn(place(root, *at, "concurrency"), message)


def _api(root: Node, at: tuple[str | int, ...], config: Config, api: OpenAI, report: Report) -> None:
    section = child(root, "jobs")
    if section is None or section.value is None:
        message = f"`dialect` is {brief(api.dialect)}, expected a section `jobs` as well, for its batches are jobs"
        report.error(place(root, *at, "dialect"), message)
    for endpoint in config.batch_endpoints:
        if api.takes(endpoint.path):
            other = place(root, "endpoints", config.endpoints.index(endpoint))
            message = f"`path` is {brief(api.path)}, expected another: it takes that of the endpoint at {other}"
            report.error(place(root, *at, "path"), message)


def _limits(root: Node, at: tuple[str | int, ...], settings: Any, report: Report) -> None:
    for small, large in _ENDPOINT_LIMITS:
        if getattr(settings, small, 0) <= getattr(settings, large, float("inf")):
            continue
        both = child(root, *at, small), child(root, *at, large)
        if both[0] is None:
            continue
        if both[1] is not None:
            expected = f"expected at most `{large}`, which is {both[1].shown}"
            report.error(place(root, *at, small), f"`{small}` is {both[0].shown}, {expected}")
        else:
            most = shown_value(keys(type(settings))[large].shape, getattr(settings, large))
            told = f"more than `{large}`, which is {most} by default, and holds as well"
            report.warn(place(root, *at, small), f"`{small}` is {both[0].shown}, {told}")


def _routes(root: Node, config: Config, report: Report) -> None:
    first: dict[tuple[str | None, tuple[str, ...]], int] = {}
    paths = {endpoint.path for endpoint in config.batch_endpoints}
    for position, route in _present(config.routes):
        at = ("routes", position)
        name = f"{route.host or ''}{route.path}"
        key = (route.host, route.segments)
        if key in first:
            other = place(root, "routes", first[key])
            message = f"route {brief(name)} is there twice, expected one for a host and path; the first is at {other}"
            report.error(place(root, *at, "path"), message)
        first.setdefault(key, position)
        for message in _useless(config, route, paths):
            report.warn(place(root, *at, "path"), f"route {brief(name)} {message}")
        if route.host is not None and not _is_allowed(route.host, config.server.allowed_hosts):
            message = f"route {brief(name)} is never taken, expected its host among `server.allowed_hosts`"
            report.error(place(root, *at, "host"), message)
        _route_limits(root, at, route, config, report)
        _rules(root, at, route, report)
    _covered(root, config, report)


def _useless(config: Config, route: Any, paths: set[str]) -> Iterator[str]:
    """Why a route does nothing for anybody."""
    if f"/{'/'.join(route.segments)}" in paths:
        yield "has the path of an endpoint, which takes what is sent exactly there"
    if route.allow is not None and not route.allow:
        yield "takes nothing, for `allow` is empty"
    if route.methods is not None and not route.methods:
        yield "takes nothing, for `methods` is empty"
    if any(rule.method is None and rule.below and not rule.segments for rule in route.deny_rules):
        yield "takes nothing, for `deny` holds `/**`"


def _rules(root: Node, at: tuple[str | int, ...], route: Any, report: Report) -> None:
    """Warns of rules that nothing on the route can match, for they look as if they protected it."""
    for name in ("deny", "allow"):
        for position, text in enumerate(getattr(route, name) or ()):
            why = _never_matches(rule(text, None), route)
            if why is not None:
                message = f"`{name}` holds {brief(text)}, which matches nothing: {why}"
                report.warn(place(root, *at, name, position), message)


def _never_matches(rule: Rule, route: Any) -> str | None:
    if rule.method is not None and route.methods is not None and rule.method not in route.methods:
        return "`methods` lets no such request through"
    own = without_trailing_slash(rule.segments)
    shared = min(len(own), len(route.segments))
    beginning = Rule(None, own[:shared], False)
    if beginning.matches("", route.segments[:shared]) and (len(own) >= len(route.segments) or rule.below):
        return None
    return f"the route takes what is below {brief(route.path)}, and rules are compared with the whole path"


def _covered(root: Node, config: Config, report: Report) -> None:
    """Warns of routes that say the same as the next shorter one, which therefore takes their requests just as well."""
    routes = _present(config.routes)
    by_key = {(route.host, route.segments): route for _, route in routes}
    for position, route in routes:
        for length in range(len(route.segments) - 1, -1, -1):
            shorter = by_key.get((route.host, route.segments[:length]))
            if shorter is None:
                continue
            if not route.strip_prefix and _says_the_same(route, shorter):
                message = f"route {brief(route.path)} says the same as {brief(shorter.path)}, which takes it as well"
                report.warn(place(root, "routes", position, "path"), message)
            break


def _says_the_same(one: Any, other: Any) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in one.__dataclass_fields__ if name != "path")


def _is_allowed(host: str, allowed: Iterable[str]) -> bool:
    patterns = list(allowed)
    bare = host.removeprefix("*.")
    return not patterns or any(
        fnmatchcase(bare, each) or each == host or (host.startswith("*.") and fnmatchcase(each, host))
        for each in (pattern.lower() for pattern in patterns)
    )


def _route_limits(root: Node, at: tuple[str | int, ...], route: Any, config: Config, report: Report) -> None:
    items = max((endpoint.max_items for endpoint in config.batch_endpoints), default=None)
    if route.max_per_batch is not None and items is not None and route.max_per_batch > items:
        message = f"`max_per_batch` is more than `max_items` of any endpoint, which is {items}, and holds as well"
        report.warn(place(root, *at, "max_per_batch"), message)
    upstream = config.upstreams.get(route.upstream)
    if upstream is None:
        return
    pairs = [
        ("timeout", route.timeout, "timeouts.total", upstream.timeouts.total),
        ("max_request_bytes", route.max_request_bytes, "max_request_bytes", upstream.max_request_bytes),
        ("max_response_bytes", route.max_response_bytes, "max_response_bytes", upstream.max_response_bytes),
    ]
    for name, own, other, most in pairs:
        if own is not None and most is not None and own > most:
            message = f"`{name}` is more than `{other}` of upstream {brief(route.upstream)}, which holds as well"
            report.warn(place(root, *at, name), message)


def _upstreams(root: Node, config: Config, report: Report) -> None:
    for name, upstream in config.upstreams.items():
        at = ("upstreams", name)
        total = upstream.timeouts.total
        for part in ("connect", "first_byte", "idle"):
            node = child(root, *at, "timeouts", part)
            if total is not None and node is not None and getattr(upstream.timeouts, part) > total:
                message = f"`{part}` is {node.shown}, expected at most `total`, which covers it"
                report.error(node.origin, message)
        if ":" in upstream.transport:
            try:
                imported(upstream.transport)
            except Exception as fault:
                # Whatever the module raises, it is this line that cannot be followed.
                message = f"`transport` cannot be imported, {type(fault).__name__}: {fault}"
                report.error(place(root, *at, "transport"), message)
        if upstream.required and upstream.health_check is None:
            message = "`required` says nothing without a `health_check`, by which it is known whether it is well"
            report.error(place(root, *at, "required"), message)
        if upstream.tls.insecure_skip_verify:
            message = f"certificates of {brief(name)} are not verified: whoever is in between can read and change all"
            report.warn(place(root, *at, "tls", "insecure_skip_verify"), message)
        if upstream.retry.per_try_timeout is not None and total is not None and upstream.retry.per_try_timeout > total:
            message = "`per_try_timeout` is more than `timeouts.total`, expected at most that"
            report.error(place(root, *at, "retry", "per_try_timeout"), message)
        if (upstream.min_upload_rate or 0) > _FAST:
            message = (
                "`min_upload_rate` is more than many clients can do: it is bytes a second, meant for those that drip"
            )
            report.warn(place(root, *at, "min_upload_rate"), message)
        if upstream.max_in_flight > upstream.max_connections and child(root, *at, "max_in_flight") is not None:
            message = f"`max_in_flight` is more than `max_connections`, which is {upstream.max_connections}"
            if not upstream.http2:
                report.warn(place(root, *at, "max_in_flight"), message)


def _loops(root: Node, config: Config, report: Report) -> None:
    ours = listeners(config.server)
    for name, upstream in config.upstreams.items():
        urls = [upstream.url] if upstream.url is not None else list(upstream.addresses)
        for position, url in enumerate(urls):
            for setting, listener in ours:
                if is_self(url, listener):
                    steps = ("url",) if upstream.url is not None else ("addresses", position)
                    node = child(root, "upstreams", name, *steps)
                    told = brief(url) if node is None else node.shown
                    message = f"{told} is our own `server.{setting}`, expected another server: this is a loop"
                    report.error(place(root, "upstreams", name, *steps), message)


def _jobs(root: Node, config: Config, report: Report) -> None:
    jobs = config.jobs
    if jobs is None:
        return
    from ..job_check import faults, warnings

    wrong = list(faults(jobs))
    for steps, message in wrong:
        report.error(place(root, "jobs", *steps), message)
    if not wrong:
        for message in warnings(jobs):
            report.warn(place(root, "jobs"), message)


def _names_in_jobs(root: Node, config: Config, report: Report) -> None:
    """Names of endpoints and upstreams that lead nowhere."""
    jobs = config.jobs
    if jobs is None:
        return
    every = [endpoint.path for endpoint in config.endpoints]
    native = [endpoint.path for endpoint in config.batch_endpoints]
    named: list[tuple[str, list[str], str, str | int]] = [
        *((path, every, "endpoints", position) for position, path in enumerate(jobs.endpoints or ())),
        *((path, native, "endpoint_delivery", path) for path in jobs.endpoint_delivery),
    ]
    for path, paths, key, step in named:
        if path not in paths:
            near = report.suggestion(path, paths) or f": {', '.join(paths)}"
            message = f"there is no endpoint {brief(path)}, expected paths of `endpoints`{near}"
            report.error(place(root, "jobs", key, step), message)
    for name in jobs.worker.limits:
        if name not in config.upstreams:
            known = list(config.upstreams)
            near = report.suggestion(name, known) or f": {', '.join(known[:20])}"
            message = f"unknown upstream {brief(name)}, expected one of `upstreams`{near}"
            report.error(place(root, "jobs", "worker", "limits", name), message)
