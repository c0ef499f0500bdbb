"""What is wrong is told all at once, each at its place, and without secrets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trustme

from batchproxy.server.config import ConfigErrors, Located, load, rendered

from .configured import UPSTREAM, errors, loaded, places

WRONG = """\
server:
  listen: 127.0.0.1:99999
  lissten: x
  log: {level: inf}
upstreams:
  orders:
    url: http://10.0.0.5:9000
    timeouts: {connect: 2s, total: 15x}
    max_connections: 0
    host: 1
routes:
  - path: /orders
    upstream: order
    methods: [get]
  - path: /users
endpoints:
  - path: batch
    guards: [no.such:guard]
"""


def test_all_errors_come_at_once(tmp_path: Path) -> None:
    """A mistake in one object hides none in another, in what it lies in, or in the same object."""
    assert places(errors(tmp_path, WRONG)) == [
        (2, 11),
        (3, 3),
        (4, 16),
        (8, 36),
        (9, 22),
        (10, 11),
        (13, 15),
        (14, 5),
        (15, 5),
        (17, 11),
        (18, 14),
    ]


def test_an_error_shows_its_line_and_a_caret(tmp_path: Path) -> None:
    """The form is that of compilers: the place, what is wrong, the line, and a caret below it."""
    [error] = errors(tmp_path, UPSTREAM + "server:\n\tlog: {levl: info}\n".replace("\t", "  "))
    assert str(error).splitlines() == [
        f"{tmp_path}/batchproxy.yaml:3:9: error: unknown key `levl`, expected a key of Log, did you mean `level`?",
        "  log: {levl: info}",
        "        ^",
    ]


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("server: [\n", (1, 9), "this is not valid YAML"),
        ("a: b: c\n", (1, 5), "this is not valid YAML"),
        ("server: {}\n---\nserver: {}\n", (2, 1), "a second document"),
        ("- a\n", (1, 1), "this is a list, expected a mapping"),
        (UPSTREAM + "server: &x {}\n", (2, 9), "an anchor"),
        (UPSTREAM + "server: !!map {}\n", (2, 9), "a tag"),
        (UPSTREAM + "server: {name: *x}\n", (2, 16), "an alias"),
        (UPSTREAM + "server: {<<: {name: x}}\n", (2, 10), "a merge key"),
        (
            UPSTREAM + "server: {name: x, name: y}\n",
            (2, 19),
            "is there twice, expected it once; the first is in line 2",
        ),
        (UPSTREAM + "server: {[a]: x}\n", (2, 10), "a key that is no text"),
        (UPSTREAM + "server: " + "[" * 40 + "]" * 40, (2, 24), "nested deeper than"),
        ("%YAML 1.1\n---\n" + UPSTREAM, (2, 1), "a directive"),
        ("", (1, 1), "there is no upstream"),
        ("server: {}\n", (1, 1), "there is no upstream"),
        (UPSTREAM + "server: {max_connections: '5'}\n", (2, 27), 'this is `"5"`, expected a whole number'),
        (UPSTREAM + "server: {max_connections: five}\n", (2, 27), "this is `five`, expected a whole number"),
        (UPSTREAM + "server: {watch: 'true'}\n", (2, 17), 'this is `"true"`, expected true or false'),
        (UPSTREAM + "server: {max_connections: 1.5}\n", (2, 27), "this is `1.5`, expected a whole number"),
        (UPSTREAM + "server: {max_connections: true}\n", (2, 27), "this is true, expected a whole number"),
        (UPSTREAM + "server: {max_connections: }\n", (2, 10), "there is no value, expected a whole number"),
        (UPSTREAM + "server: {name: 5}\n", (2, 16), "expected text; put it between quotes"),
        (UPSTREAM + "server: {listen: 8080}\n", (2, 18), 'expected host:port, such as `"127.0.0.1:8080"`'),
        (UPSTREAM + "server: {admin: false}\n", (2, 17), 'this is false, expected `"off"`, or host:port, such as'),
        (UPSTREAM + "server: {watch: yes}\n", (2, 17), "this is `yes`, expected true or false"),
        (UPSTREAM + "server: {grace: 5 parsecs}\n", (2, 17), "expected a duration such as"),
        (UPSTREAM + "server: {grace: .nan}\n", (2, 17), "expected a number of seconds"),
        (UPSTREAM + "server: {max_header_bytes: 1.0001KiB}\n", (2, 28), "expected a size such as"),
        (UPSTREAM + "server: {allowed_hosts: a.example}\n", (2, 25), "expected a list; put it between brackets"),
        (UPSTREAM + "server: {allowed_hosts: [a.example, B]}\n", (2, 37), "expected host names in small letters"),
        (UPSTREAM + "server: {trusted_proxies: [10.0.0.1/8]}\n", (2, 28), "has host bits set"),
        (UPSTREAM + "server: {admin: '0.0.0.0:9090'}\n", (2, 17), "expected an admin_token"),
        (UPSTREAM + "routes: [{upstream: aa}]\n", (2, 21), "unknown upstream `aa`, expected one of `upstreams`"),
        (UPSTREAM + "routes: [{upstream: a, methods: GET}]\n", (2, 33), "expected a list"),
        (
            UPSTREAM + "routes: [{upstream: a, deny: [/a, b]}]\n",
            (2, 35),
            "`deny` is not right here, expected `[METHOD ]/path` with",
        ),
        (UPSTREAM + "endpoints: [{max_per_batch: {/a: 1, b: 1}}]\n", (2, 37), "expected `[METHOD ]/path`"),
        (UPSTREAM + "endpoints: [{max_per_batch: {/a: -1}}]\n", (2, 30), "expected an integer of at least 0"),
        (UPSTREAM + "routes: [{upstream: a, add_headers: {Host: x}}]\n", (2, 38), "does not frame the message"),
        (
            UPSTREAM + 'routes: [{upstream: a, add_headers: {a: b, X-Y: "a\\nb"}}]\n',
            (2, 44),
            "`X-Y` in `add_headers` is not",
        ),
        (UPSTREAM + "routes: [{upstream: a, methods: [GET, get]}]\n", (2, 24), "`methods` is `[GET, get]`, expected"),
        (UPSTREAM + "endpoints: [{methods: [GET, get]}]\n", (2, 14), "`methods` is `[GET, get]`, expected some of"),
        (UPSTREAM + "endpoints: [{trusted_origins: ['*']}]\n", (2, 14), "`trusted_origins` is `[*]`, expected"),
        (
            UPSTREAM + "jobs: {webhooks: {url: 'http://a', signing: [hunter2]}}\n",
            (2, 36),
            "`signing`, expected env:NAME or file:/path, not the secret itself",
        ),
        (UPSTREAM + "endpoints: []\n", (2, 1), "there is no endpoint"),
        (UPSTREAM + "endpoints: [{}, {path: /batch}]\n", (2, 24), "is there twice"),
        (UPSTREAM + "endpoints: [{in_flight: 5}]\n", (2, 14), "unknown key `in_flight`"),
        (UPSTREAM + "endpoints: [{routes: []}]\n", (2, 14), "unknown key `routes`"),
        (UPSTREAM + "endpoints: [{guards: [json:dumps]}]\n", (2, 23), "expected an `async (Batch) -> Batch` function"),
        (UPSTREAM + "endpoints: [{concurrency: 9000}]\n", (2, 27), "a batch that uses it is always refused"),
        ("upstreams: {a: {url: 'http://x', transport: 'no.such:x'}}\n", (1, 45), "`transport` cannot be imported"),
        ("upstreams: {a: {url: 'http://x', timeouts: {connect: 5, total: 2}}}\n", (1, 54), "expected at most `total`"),
        (
            "upstreams: {a: {url: 'http://x', retry: {per_try_timeout: 5}, timeouts: {total: 3}}}\n",
            (1, 59),
            "more than `timeouts.total`",
        ),
        ("upstreams: {a b: {url: 'http://x'}}\n", (1, 13), "expected a name of letters"),
        ("upstreams: {a: {}}\n", (1, 13), "`url` is missing, expected a url, or several addresses"),
        ("upstreams: {a: {url: 'http://x:291010'}}\n", (1, 22), "expected a port from 1 to 65535"),
        ("upstreams: {a: {url: 'http://x'}, b: {url: 'http://y'}}\n", (1, 1), "2 upstreams and no routes"),
        ("upstreams: {a: {url: 'http://127.0.0.1:8080'}}\n", (1, 22), "our own `server.listen`"),
        ("upstreams: {a: {url: 'http://localhost:9090'}}\n", (1, 22), "our own `server.admin`"),
        ("upstreams: {a: {url: 'https://x', tls: {ca: none.pem}}}\n", (1, 45), "`none.pem` cannot be read"),
    ],
)
def test_each_mistake_is_told_where_it_is(tmp_path: Path, text: str, place: tuple[int, int], expected: str) -> None:
    """One mistake gives one error, at its line and column, that says what was expected."""
    [error] = errors(tmp_path, text)
    assert ((error.line, error.column), error.message) == (place, error.message)
    assert expected in error.message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("max_item_bytes: 2MiB", "max_batch_bytes: 1MiB"),
        ("max_response_bytes: 2MiB", "max_total_response_bytes: 1MiB"),
        ("item_timeout: 1m", "batch_timeout: 5s"),
        ("read_timeout: 1m", "read_total_timeout: 5s"),
    ],
)
def test_limits_that_contradict_each_other_are_errors(tmp_path: Path, first: str, second: str) -> None:
    """Of two limits that are both written, the inner one may not be the larger; nor should it be alone. A default is
    cut down silently."""
    [error] = errors(tmp_path, UPSTREAM + f"endpoints: [{{{first}, {second}}}]\n")
    assert "expected at most" in error.message
    assert loaded(tmp_path, UPSTREAM + f"endpoints: [{{{second}}}]\n").warnings == []


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("item_timeout: 60s", "`item_timeout` is `60s`, more than `batch_timeout`, which is 30s by default"),
        ("max_item_bytes: 16MiB", "`max_item_bytes` is `16MiB`, more than `max_batch_bytes`, which is 8MiB by default"),
    ],
)
def test_limits_that_contradict_a_default_are_warnings(tmp_path: Path, limit: str, expected: str) -> None:
    """The default holds as well, so the limit is not what it says."""
    [warning] = loaded(tmp_path, UPSTREAM + f"endpoints: [{{{limit}}}]\n").warnings
    assert expected in warning


@pytest.mark.parametrize(
    ("route", "word"),
    [
        ('path: /api, deny: ["/internal/**"]', "deny"),
        ('path: /api, deny: ["/"]', "deny"),
        ('path: /api/v1, deny: ["DELETE /api"]', "deny"),
        ('path: /api, methods: [GET, POST], deny: ["DELETE /api/**"]', "deny"),
        ('path: /api, allow: ["/users", "/api/users"]', "allow"),
    ],
)
def test_rules_that_match_nothing_are_warnings(tmp_path: Path, route: str, word: str) -> None:
    """Whoever wrote them believes that something is refused, or let through."""
    [warning] = loaded(tmp_path, UPSTREAM + f"routes:\n- {{upstream: a, {route}}}\n").warnings
    assert f"`{word}` holds" in warning
    assert "matches nothing" in warning


@pytest.mark.parametrize("rule", ["/**", "/a*/**", "/*/users", "/api", "/api/", "/api/**", "DELETE /api/x", "/*/**"])
def test_rules_that_match_something_are_not(tmp_path: Path, rule: str) -> None:
    """Above the route, at it, or below."""
    found = loaded(tmp_path, UPSTREAM + f'routes:\n- {{upstream: a, path: /api, allow: ["{rule}"]}}\n')
    assert found.warnings == []


def test_a_route_that_is_there_twice_is_an_error(tmp_path: Path) -> None:
    """Two routes of one host and path, also with a slash at the end, are refused at the second."""
    routes = "routes:\n- {upstream: a, path: /x}\n- {upstream: a, path: /x/}\n- {upstream: a, path: /x, host: h}\n"
    [error] = errors(tmp_path, UPSTREAM + routes)
    assert (error.line, error.column) == (4, 23)
    assert "batchproxy.yaml:3:3" in error.message


def test_a_route_for_a_host_that_is_not_allowed_is_an_error(tmp_path: Path) -> None:
    """A route that no request can reach is refused."""
    text = UPSTREAM + "server: {allowed_hosts: ['*.example.com']}\nroutes:\n- {upstream: a, host: HOST}\n"
    [error] = errors(tmp_path, text.replace("HOST", "example.org"))
    assert "is never taken" in error.message
    assert loaded(tmp_path, text.replace("HOST", "api.example.com")).warnings == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  b: {url: 'http://y'}\n", "upstream `b` is used by no route"),
        ("- {upstream: a, path: /batch, serial: true}\n", "has the path of an endpoint"),
        ("- {upstream: a, path: /x, allow: []}\n", "takes nothing, for `allow` is empty"),
        ("- {upstream: a, path: /x, deny: [/**]}\n", "takes nothing, for `deny` holds `/**`"),
        ("- {upstream: a, path: /x, methods: []}\n", "takes nothing, for `methods` is empty"),
        ("- {upstream: a, path: /x/y}\n", "says the same as `/`"),
        ("- {upstream: a, path: /x, timeout: 2m}\n", "more than `timeouts.total`"),
        ("- {upstream: a, path: /x, max_per_batch: 101}\n", "more than `max_items` of any endpoint, which is 100"),
    ],
)
def test_what_works_but_hardly_as_meant_is_a_warning(tmp_path: Path, text: str, expected: str) -> None:
    """A configuration with a useless part is loaded, with a warning at that part."""
    upstreams = "upstreams:\n  a: {url: 'http://x', timeouts: {connect: 1s, total: 1m}}\n"
    routes = "routes:\n- {upstream: a}\n"
    whole = upstreams + text + routes if text.startswith(" ") else upstreams + routes + text
    [warning] = loaded(tmp_path, whole).warnings
    assert expected in warning
    assert ": warning: " in warning


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("upstreams: {a: {url: 'https://x', tls: {insecure_skip_verify: true}}}\n", "of `a` are not verified"),
        ("upstreams: {a: {url: 'http://x', max_in_flight: 200}}\n", "`max_in_flight` is more than `max_connections`"),
        ("upstreams: {a: {url: 'http://x', min_upload_rate: 2MiB}}\n", "bytes a second"),
        (UPSTREAM + "endpoints: [{concurrency: 3000}]\n", "`concurrency` is more than `server.max_in_flight`"),
    ],
)
def test_settings_that_defeat_others_are_warnings(tmp_path: Path, text: str, expected: str) -> None:
    """What is unsafe, or more than another setting lets through, works and is told."""
    [warning] = loaded(tmp_path, text).warnings
    assert expected in warning


@pytest.mark.parametrize(
    "text",
    [
        "server: {admin_token: 'hunter2 hunter2', lissten: x}\n",
        "server: {admin_tokn: hunter2}\n",
        "server:\n  admin_token: hunter2: x\n",
        "server:\n  admin_token: 'hunter2\n",
        "server:\n  admin_token:\n    hunter2: x: y\n",
        "server:\n  admin_token: |\n    hunter2\n   x\n  lissten: x\n",
        "server: {admin_token: [hunter2]}\n",
        "server:\n  admin_token:\n    a: hunter2\n    a: hunter2\n  x: [\n",
        "server:\n  admin_token:\n    a: &hunter2 hunter2\n    b: hunter2\n [\n",
        "upstreams: {a: {url: '${file:secret}'}}\n",
        "upstreams: {a: {url: 'http://x'}}\nroutes: [{upstream: '${file:secret}'}]\n",
        "upstreams: {a: {url: 'https://x', tls: {ca: '${file:secret}'}}}\n",
        "endpoints: [{deny: ['${file:secret}']}, {guards: ['${file:secret}']}]\n",
        "server: {admin_token: {hunter: hunter2}}\n",
        'routes: [{upstream: a, add_headers: {Authorization: "hunter2\\n"}}]\n',
        "routes: [{upstream: a, add_headers: {X-Api-Key: [hunter2]}}]\n",
        "upstreams: {b: {url: 'http://me:hunter2@x'}}\n",
        "server: {admin_token: '${file:secret}'}\n",
        "server: {name: '${file:secret}'}\n",
        "server: {workers: '${file:secret}'}\n",
        "server: {trusted_proxies: ['${file:secret}']}\n",
    ],
)
def test_errors_show_no_secret(tmp_path: Path, text: str) -> None:
    """Neither a message nor the line it shows holds a secret, be the YAML wrong or the value."""
    (tmp_path / "secret").write_text("hunter2 hunter2", "utf-8")
    found = errors(tmp_path, text)
    for format in ("text", "json", "github"):
        assert "hunter2" not in rendered(found, format)


def test_variables_that_hold_secrets_are_not_shown(tmp_path: Path) -> None:
    """The value of a secret key is not shown when it comes from a variable either."""
    [error] = errors(tmp_path, UPSTREAM, environment={"BATCHPROXY_SERVER__ADMIN_TOKEN": "hunter2 x"})
    assert error.file == "environment BATCHPROXY_SERVER__ADMIN_TOKEN"
    assert "hunter2" not in str(error)


def test_certificates_are_looked_at(tmp_path: Path) -> None:
    """Paths are relative to the file; a certificate and the key of another one are refused."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name in ("one", "two"):
        issued = authority.issue_cert("localhost")
        issued.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
    text = "upstreams: {a: {url: 'https://x', tls: {ca: ca.pem, certificate: one.pem, key: KEY}}}\n"
    found = loaded(tmp_path, text.replace("KEY", "one.key"))
    assert found.config.upstreams["a"].tls.ca == str(tmp_path / "ca.pem")
    assert set(found.files) >= {tmp_path / "ca.pem", tmp_path / "one.pem", tmp_path / "one.key"}
    [error] = errors(tmp_path, text.replace("KEY", "two.key"))
    assert "expected a certificate and its key in PEM" in error.message
    [error] = errors(tmp_path, text.replace("ca: ca.pem", "ca: one.key").replace("KEY", "one.key"))
    assert "expected certificates in PEM" in error.message


def test_errors_are_rendered_for_programs(tmp_path: Path) -> None:
    """JSON holds the parts of each error, and GitHub's form is one escaped line for each."""
    found = errors(tmp_path, WRONG)
    assert [each["line"] for each in json.loads(rendered(found, "json"))] == [each.line for each in found]
    [first, *_] = rendered(ConfigErrors(found), "github").splitlines()
    assert first.startswith(f"::error file={tmp_path}/batchproxy.yaml,line=2,col=11::`listen` is")
    odd = Located(file="a:b,c%\n", line=1, column=1, message="100%")
    assert rendered([odd], "github") == "::error file=a%3Ab%2Cc%25%0A,line=1,col=1::100%25"


def test_errors_do_not_speak_to_the_terminal(tmp_path: Path) -> None:
    """Control characters of a value are replaced in messages and in the lines that are shown."""
    [error] = errors(tmp_path, UPSTREAM + 'server: {name: "\\e[31mred"}\n')
    assert "\x1b" not in str(error)


def test_many_errors_are_cut_off(tmp_path: Path) -> None:
    """After a hundred errors there is one that counts the others."""
    found = errors(tmp_path, UPSTREAM + "".join(f"x{number}: 1\n" for number in range(150)))
    assert len(found) == 101
    assert found[-1].message == "and 50 more errors"


def test_long_lines_are_shown_in_part(tmp_path: Path) -> None:
    """Of a long line, the part around the mistake is shown."""
    padding = " " * 1000
    [error] = errors(tmp_path, UPSTREAM + f"server: {{{padding}lissten: x,{padding}}}\n")
    _, line, caret = str(error).splitlines()
    assert len(line) <= 160
    assert line[caret.index("^") :].startswith("lissten")


def test_bytes_that_are_no_text_are_an_error(tmp_path: Path) -> None:
    """A file in another encoding is refused at the first byte that shows it."""
    path = tmp_path / "batchproxy.yaml"
    path.write_bytes(b"server:\n  name: caf\xe9\n")
    with pytest.raises(ConfigErrors) as caught:
        load(path, environment={})
    assert places(caught.value.errors) == [(2, 12)]


def test_a_mistake_in_one_section_hides_none_in_another(tmp_path: Path) -> None:
    """Wrong values, duplicates and loops are told together, each where it is."""
    file = tmp_path / "all.yaml"
    file.write_text(
        "server: {workers: two, listen: '127.0.0.1:8181'}\n"
        "upstreams: {a: {url: 'http://127.0.0.1:8181'}, b: {url: 'http://127.0.0.1:9'}}\n"
        "routes: [{path: /y, upstream: a},\n  {path: /y, upstream: b}]\n"
        "endpoints: [{path: /batch},\n  {path: /batch, max_item: 4}]\n"
    )
    with pytest.raises(ConfigErrors) as errors:
        load(file, environment={})
    assert [each.line for each in errors.value.errors] == [1, 2, 4, 6, 6]


def test_a_wrong_member_hides_none_between_others(tmp_path: Path) -> None:
    """Routes, endpoints and upstreams that are right are compared with each other all the same."""
    text = """\
    server: {listen: "127.0.0.1:8080"}
    upstreams:
      loop: {url: "http://127.0.0.1:8080"}
      bad: {url: nowhere}
      api: {url: "http://127.0.0.1:9000", timeouts: {total: 1s, connect: 5s}}
    routes:
      - {path: /a, upstream: api, timeout: soon}
      - {path: /b, upstream: api}
      - {path: /b/, upstream: loop}
      - {path: /c, upstream: bad}
    endpoints:
      - {path: /one, concurrency: many}
      - {path: /two, max_item_bytes: 2MiB, max_batch_bytes: 1MiB}
      - {path: /two}
    """
    found = errors(tmp_path, text)
    assert [each.line for each in found] == [3, 4, 5, 7, 9, 12, 13, 14]


def test_names_are_not_missed_among_what_is_wrong_itself(tmp_path: Path) -> None:
    """An endpoint that is wrong is there, though nobody knows yet as what."""
    text = UPSTREAM + "endpoints: [{path: /one, concurrency: many}]\njobs: {endpoints: [/one], anonymous: true}\n"
    [error] = errors(tmp_path, text)
    assert "expected a whole number" in error.message
