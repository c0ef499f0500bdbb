"""`batchproxy worker`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from .configured import ConfigFile, Upstreams, loader
from .speaking import Code, escaped, fail

if TYPE_CHECKING:
    from ..config import Loaded


AppName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:APP",
        help="Work on the jobs of an app of yours that BatchMiddleware wraps, in place of a configuration.",
    ),
]
StoreUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="BATCHPROXY_JOBS__STORE__URL",
        help="Where the jobs are: sqlite:///path or postgresql://…, in place of what the file or the app says.",
    ),
]
Concurrency: TypeAlias = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Items that run at one time; 4 unless the file or the app says more."),
]
Workers: TypeAlias = Annotated[
    int, typer.Option(metavar="N", min=1, help="Processes, each with so much concurrency; not with --app.")
]
Admin: TypeAlias = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="An admin listener; there is none without.")
]
# Variables of a configuration, taken as flags: an app has none that would read them.
LogLevel: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="LEVEL", envvar="BATCHPROXY_SERVER__LOG__LEVEL", help="debug, info, warning or error."),
]
LogFormat: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="FORMAT", envvar="BATCHPROXY_SERVER__LOG__FORMAT", help="auto, json or console."),
]


def worker(
    config: ConfigFile = None,
    upstream: Upstreams = None,
    app: AppName = None,
    store: StoreUrl = None,
    concurrency: Concurrency = None,
    workers: Workers = 1,
    admin: Admin = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Work on jobs, and take no requests; as many processes as you like.

    \b
    Examples:
      batchproxy worker -c batchproxy.yaml
      batchproxy worker -c batchproxy.yaml --workers 4 --concurrency 32 --admin 127.0.0.1:9091
      batchproxy worker --app shop.main:app --concurrency 32

    SIGTERM ends it gracefully: what has not ended is handed over. A wrong configuration ends with 78.
    """
    from ..config import ConfigErrors

    try:
        if app is not None:
            if config is not None or upstream or admin is not None or workers > 1:
                fail(
                    Code.USAGE,
                    "--app stands in the place of a configuration;"
                    " expected no --config, --upstream, --admin, --workers",
                )
            code = _of_app(app, store, concurrency, log_level, log_format)
        else:
            settings = {
                "server.admin": admin or "off",
                "server.workers": workers,
                "server.log.level": log_level,
                "server.log.format": log_format,
                "jobs.store.url": store,
                "jobs.worker.concurrency": concurrency,
            }
            from ..life import serve

            load = loader(config, upstream, settings, expected="--config FILE, --upstream URL or --app MODULE:APP")
            code = serve(_with_jobs(load), listens=False)
    except ConfigErrors as errors:
        typer.echo(str(errors), err=True)
        code = int(Code.BAD_CONFIGURATION)
    raise typer.Exit(code)


def _with_jobs(load: Callable[[], Loaded]) -> Callable[[], Loaded]:
    """A configuration without jobs is wrong here."""

    def checked() -> Loaded:
        from ..config import ConfigErrors, Located

        loaded = load()
        if loaded.config.jobs is None:
            name = str(loaded.files[0]) if loaded.files else "configuration"
            missing = "there is no `jobs`, expected that section, or `--store URL`, for a worker"
            raise ConfigErrors([Located(file=name, line=0, column=0, message=missing)])
        return loaded

    return checked


def _of_app(app: str, store: str | None, concurrency: int | None, level: str | None, form: str | None) -> int:
    from ...engine.errors import SettingError
    from ..app_worker import work

    module, _, name = app.partition(":")
    if not module or not name:
        fail(Code.USAGE, f"--app {escaped(app)}: expected a module and its app, such as shop.main:app")
    try:
        return work(app, store, concurrency, level=level or "info", form=form or "auto")
    except SettingError as fault:
        fail(Code.USAGE, str(fault).removeprefix("batchproxy: "))
