"""What each key of a config file means: read by the JSON Schema, `config/full.yaml` and `docs/configuration.md`."""

from __future__ import annotations

from collections.abc import Mapping

_CONFIG = {
    "server": "The process: where it listens, whom it believes, what it logs.",
    "upstreams": "The servers behind it, by name.",
    "routes": "Which requests go to which upstream; without any, all go to the only upstream.",
    "endpoints": "The paths that take batches.",
    "jobs": "Batches that outlive their connection; null for none.",
}

_SERVER = {
    "listen": "Where requests arrive: `host:port`, `[v6]:port`, `unix:/path.sock` or `fd:3`.",
    "admin": "Where health, state and reload are served, in the forms of `listen`; `off` for nowhere.",
    "admin_hosts": "Values of `Host` that the admin listener takes, beside names and addresses of loopback.",
    "admin_token": "Asked for by the admin listener, as `Authorization: Bearer …`, by all but the health endpoints;"
    " needed where `admin` is not loopback.",
    "name": "Our pseudonym in `Via` and `CDN-Loop`; each proxy in a chain needs one of its own.",
    "workers": "Processes that serve; limits are per worker.",
    "trusted_proxies": "Addresses and networks (`10.0.0.0/8`) whose `X-Forwarded-*` is believed; `unix` for sockets.",
    "allowed_hosts": "Names that `Host` may have, such as `api.example.com` and `*.example.com`; empty for all.",
    "max_header_bytes": "The headers of a request together.",
    "max_connections": "Connections of clients at one time.",
    "max_in_flight": "Items of all batches that run at one time.",
    "max_queue": "Items that may wait for a place; what comes then is refused with 503.",
    "keep_alive": "How long an idle connection of a client stays open.",
    "header_timeout": "How long the head of a request may take to arrive.",
    "drain_delay": "At shutdown, how long requests are still taken while the process already says it is not ready.",
    "grace": "At shutdown, how long running requests may take to end.",
    "watch": "Whether a changed config file is taken up by itself.",
    "tls_certificate": "Certificate chain in PEM, to serve HTTPS; relative to the config file.",
    "tls_key": "Its key in PEM; relative to the config file.",
    "log": "What is logged, and how.",
}

_LOG = {
    "level": "The least important that is logged.",
    "format": "`json` for machines, `console` for people; `auto` is `console` on a terminal.",
    "access": "Whether each request gets a line.",
    "items": "Which items of a batch get a line of their own.",
}

_UPSTREAM = {
    "url": "Where it is: `http://host[:port][/prefix]`, `https://…` or `unix:/path.sock`.",
    "addresses": "Several of them, instead of `url`, taken in turn.",
    "host": "What it gets as `Host`: `preserve` the client's, `upstream` its own, `auto` the client's over http and its"
    " own over https, or a name.",
    "timeouts": "How long each part of a request may take.",
    "tls": "How it proves who it is, and how we do.",
    "transport": "`native`, `httpx`, or `package.module:factory`, which makes an httpx transport.",
    "http2": "Whether to speak HTTP/2; with `transport: httpx`.",
    "max_connections": "Connections to each address.",
    "max_in_flight": "Requests that run at one time.",
    "max_queue": "Requests that may wait for a place; what comes then gets 503.",
    "idle_expiry": "How long an unused connection is kept; less than what the upstream keeps it.",
    "max_response_header_bytes": "The headers of an answer together.",
    "max_request_bytes": "The body of a request; null for any.",
    "max_response_bytes": "The body of an answer; null for any.",
    "min_upload_rate": "Bytes a second that a client must send of a long body, once it has kept us waiting for"
    " `timeouts.idle` altogether; null for any. It is a mean since the body began, with `timeouts.idle` of credit: a"
    " lot at the start buys time for dripping later.",
    "retry": "Further attempts, for idempotent methods, as long as nothing of an answer has arrived.",
    "circuit_breaker": "When the upstream as a whole is left alone for a while.",
    "outlier_detection": "When one of several addresses is left out for a while.",
    "health_check": "Asks each address now and then whether it is well; null for never.",
    "required": "Whether the process is unready as long as no address is healthy.",
}

_TIMEOUTS = {
    "connect": "To connect, name resolution and TLS included.",
    "first_byte": "From the end of the request to the head of the answer.",
    "idle": "A pause inside a message.",
    "total": "All attempts together, waiting included; null for no limit.",
}

_TLS = {
    "ca": "Bundle of authorities in PEM, relative to the config file; null for the system's.",
    "server_name": "The name asked for and expected in the certificate; null for the host of the address.",
    "certificate": "Our certificate in PEM, relative to the config file.",
    "key": "Its key in PEM, relative to the config file.",
    "min_version": "The oldest version of TLS that is spoken.",
    "insecure_skip_verify": "Believes any certificate. Not for production.",
}

_RETRY = {
    "attempts": "Further attempts after the first.",
    "on": "Failures that are tried again: `connect-failure`, `tls-failure`, `reset-before-response`,"
    " `first-byte-timeout`.",
    "per_try_timeout": "How long one attempt may take to the head of its answer; null for `first_byte` alone.",
    "backoff": "The pause before the second attempt; it doubles.",
    "max_backoff": "The longest pause.",
    "budget": "The share of running requests that may be further attempts.",
    "min_budget": "How many always may.",
}

_CIRCUIT_BREAKER = {
    "consecutive_failures": "Failures in a row that open it: no connection, no answer, a broken one.",
    "open_for": "How long requests are refused, until one is let through and decides.",
}

_OUTLIER_DETECTION = {
    "consecutive_5xx": "Failures or 5xx answers in a row for which an address is left out.",
    "base_ejection_time": "For how long, the first time.",
    "max_ejection_time": "For how long at most.",
    "max_ejection_percent": "The share of addresses that may be left out.",
}

_HEALTH_CHECK = {
    "path": "What is asked for; a status from 200 to 399 is healthy.",
    "interval": "From one check to the next.",
    "timeout": "How long a check may take.",
    "healthy": "Checks in a row that make an address healthy again.",
    "unhealthy": "Checks in a row that make it unhealthy.",
}

_ROUTE = {
    "upstream": "The name of the upstream.",
    "path": "This path and all below it; the longest wins.",
    "host": "Only requests for this host, or `*.example.com`; null for any.",
    "strip_prefix": "Whether `path` is taken off.",
    "add_prefix": "What is put before the path, such as `/v2`.",
    "methods": "Only these methods; null for any.",
    "allow": "Rules `[METHOD ]/path`: only what matches one may pass; null for everything.",
    "deny": "Rules: what matches one may not pass; stronger than `allow`.",
    "add_headers": "Headers that the upstream gets, in place of the client's of that name.",
    "remove_headers": "Headers of the client that it does not get.",
    "require_headers": "Headers without which a request is refused.",
    "max_per_batch": "Items of one batch that may take this route; null for any number.",
    "serial": "Whether the items of a batch take it one after another.",
    "max_request_bytes": "The body of a request; null for what the upstream allows.",
    "max_response_bytes": "The body of an answer; null for what the upstream allows.",
    "timeout": "For the whole exchange; it can only shorten the upstream's `timeouts.total`.",
}

_ENDPOINT = {
    "path": "Where batches are sent to.",
    "dialect": "The format of batches and their answers.",
    "trusted_origins": "Origins whose pages may send batches, such as `https://app.example.com`.",
    "describe": "Whether it answers `GET`, `HEAD` and `OPTIONS` about itself.",
    "guards": "Functions `package.module:function` that see each batch before it runs.",
    "base_path": "Put before the path of every item, such as `/api`.",
    "methods": "Methods that items may have.",
    "allow": "Rules `[METHOD ]/path`: only items that match one may run; null for all.",
    "deny": "Rules: items that match one may not run; stronger than `allow`.",
    "max_per_batch": "Rules, each with how many items of one batch may match it.",
    "protected_headers": "Headers that items may not set, besides those that they never may.",
    "allow_empty_segments": "Whether `//` may stand inside a path.",
    "execution": "The laxest order of the items; a batch may ask for a stricter one.",
    "max_items": "Items of a batch.",
    "max_batch_bytes": "The body of the batch request.",
    "max_item_bytes": "The body of one item.",
    "max_response_bytes": "The body of one answer.",
    "max_total_response_bytes": "The bodies of all answers; of a stream, those that are held at one time.",
    "max_path_bytes": "Path and query of an item.",
    "max_headers": "Headers that an item sets.",
    "max_header_bytes": "Their names and values together.",
    "max_depth": "How deep a JSON body may be nested.",
    "max_vars": "Values that an item takes from other answers.",
    "max_var_bytes": "One such value, as JSON.",
    "max_dependency_depth": "How long a chain of items may be that wait for each other.",
    "concurrency": "Items of one batch that run at one time.",
    "item_timeout": "One item; it may ask for less.",
    "batch_timeout": "The whole batch, from when it has been read; it may ask for less.",
    "read_timeout": "A pause in the body of the batch request.",
    "read_total_timeout": "The whole of that body.",
    "write_timeout": "A reader that takes nothing; it then counts as gone.",
}

_OPENAI = {
    "path": "What stands before `/files` and `/batches`, which are answered here.",
    "dialect": "`openai` makes an endpoint the Batch API of OpenAI, in front of any API; it needs `jobs`.",
    "allow": "Rules: the endpoints of the API for which there may be batches.",
    "deny": "Rules: those for which there may not; stronger than `allow`.",
    "max_items": "Lines of a file.",
    "max_batch_bytes": "A file.",
    "max_item_bytes": "The body of one line.",
    "max_response_bytes": "The body of one answer.",
    "max_depth": "How deep the JSON of an answer may be nested; deeper ones are given as text.",
    "one_model": "Whether all lines of a file must name the same model.",
    "keep": "How long files and batches are kept, unless their owner says otherwise for a file.",
    "delivery": "Whether a line is sent again if nobody knows what became of it.",
    "read_timeout": "A pause in an upload.",
    "read_total_timeout": "The whole of an upload.",
    "write_timeout": "A reader that takes nothing; it then counts as gone.",
}

_JOBS = {
    "store": "Where jobs are kept, and for how long.",
    "endpoints": "Paths of the endpoints that have jobs; null for all.",
    "principal": "Whose a job is: `credential` is the hash of `Authorization`, `X-API-Key` and `Api-Key`; `header:NAME`"
    " a header that somebody in front sets, and no client can; `cookie:NAME` the hash of a cookie.",
    "anonymous": "Whether all who are nobody in particular share their jobs; else they have none.",
    "key_file": "The key for what jobs keep of credentials, 32 bytes in base64, relative to the config file; null for"
    " the variable `BATCHPROXY_JOBS_KEY`.",
    "plain_headers": "Headers of a batch that are no credentials, and may be kept without a key.",
    "delivery": "Whether items that are not idempotent are sent again if nobody knows what became of them; a batch may"
    " say otherwise.",
    "endpoint_delivery": "The same for single endpoints, by their paths.",
    "max_items": "Items of a job.",
    "max_bytes": "The body of its submission.",
    "upload_timeout": "The whole of that body.",
    "wait": "The longest that an answer waits for a job, with `Prefer: wait=N`.",
    "stream_timeout": "The longest that events or results are streamed over one connection.",
    "deadline": "How long a job may take; it may ask for less.",
    "poll": "How soon a change is noticed by those who wait, without a hint.",
    "worker": "How this process works on jobs.",
    "webhooks": "Who is told of the end of jobs; null for nobody.",
}

_STORE = {
    "url": "`sqlite:///path/to/file`, relative to where the process starts, or `postgresql://user@host/database`; null"
    " for `jobs.db` in `$STATE_DIRECTORY` (systemd), or else in `~/.local/state/batchproxy`.",
    "hosts": "Machines whose processes share the store; more than one need PostgreSQL.",
    "blobs": "The folder of large contents, or `s3://bucket/prefix`; null for a folder beside the file, or for the"
    " database itself with PostgreSQL.",
    "blobs_endpoint": "The URL of a server that speaks as S3 does; null for what `AWS_ENDPOINT_URL` says, or Amazon."
    " Credentials are those of the environment or of the machine.",
    "blobs_region": "Its region; null for what `AWS_REGION` says.",
    "pooler": "Whether `url` leads to a pooler that gives out connections for one transaction, such as PgBouncer.",
    "connections": "Connections of one process to the database.",
    "wait": "How long a transaction waits for others.",
    "lease": "How long work belongs to a worker that says nothing.",
    "keep": "How long a job is kept after its end.",
    "open_jobs": "Jobs of one principal that have not ended; null for any number.",
    "stored_bytes": "What the jobs of one principal take; null for any size.",
}

_WORK = {
    "embedded": "Whether `serve` works on jobs; `batchproxy worker` always does.",
    "concurrency": "Items that run at one time, in each process.",
    "chunks": "Chunks of items that a process has at one time.",
    "stages": "Validations and ends of jobs that run at one time.",
    "poll": "How long it waits for work without a hint.",
    "watch": "How soon a cancellation or a deadline is seen: nothing is begun from then on.",
    "sweep": "How often what is out of date is removed.",
    "item_timeout": "One item; it may ask for less.",
    "attempts": "Attempts in all, where a failure may pass.",
    "rests": "Attempts in all at an upstream that does nothing, for it is overloaded or not there.",
    "first_backoff": "The longest pause before the second attempt; it doubles.",
    "longest_backoff": "The longest pause.",
    "longest_rest": "The longest `Retry-After` that is believed.",
    "limits": "What the items of jobs may ask of an upstream, by its name, of all processes together.",
    "watchdog": "Leases without any progress after which a chunk is given back.",
}

_SHARED = {
    "rate": "Items in the time `per`; null for any number.",
    "per": "The time that `rate` is for.",
    "burst": "Items that may begin at once after a pause; null for `rate`.",
    "max_in_flight": "Items that run at one time; null for any number.",
}

_WEBHOOKS = {
    "url": "Where the end of each job is told, as a Standard Webhook; null for nowhere.",
    "signing": "Where the secrets are that messages to `url` are signed with: `env:NAME`, or `file:path`, relative to"
    " the config file.",
    "callbacks": "The same for callers who ask to be told of their jobs: a list for each name that they may use as"
    " `secret_ref`; without any, nobody may ask.",
    "http": "Whether it may be `http`.",
    "ports": "Ports that are allowed beside 443.",
    "allow": "Hosts and networks whose addresses need not be public; callers may name them, too.",
    "ca": "Bundle of authorities in PEM, relative to the config file; null for the system's.",
    "timeout": "How long one try may take.",
}

DESCRIPTIONS: Mapping[str, Mapping[str, str]] = {
    "Config": _CONFIG,
    "Server": _SERVER,
    "Log": _LOG,
    "Upstream": _UPSTREAM,
    "Timeouts": _TIMEOUTS,
    "TLS": _TLS,
    "Retry": _RETRY,
    "CircuitBreaker": _CIRCUIT_BREAKER,
    "OutlierDetection": _OUTLIER_DETECTION,
    "HealthCheck": _HEALTH_CHECK,
    "Route": _ROUTE,
    "Endpoint": _ENDPOINT,
    "OpenAI": _OPENAI,
    "Jobs": _JOBS,
    "Store": _STORE,
    "Work": _WORK,
    "Shared": _SHARED,
    "Webhooks": _WEBHOOKS,
}


def described(settings: type, name: str) -> str:
    """What a key of a settings class means. Raises `KeyError` for one that nobody has described."""
    return DESCRIPTIONS[settings.__name__][name]
