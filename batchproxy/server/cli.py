"""The command line: the verbs put together.

Knows: names and order of the verbs, the flags before them. Must not know: what they do. Each verb imports what it needs
when it runs, so that help is quick.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Annotated

import typer

from .commands.admin import healthcheck, reload
from .commands.check import check
from .commands.jobs import jobs
from .commands.routes import routes
from .commands.send import send
from .commands.serve import serve
from .commands.speaking import Code, Manner, escaped
from .commands.starter import init, schema
from .commands.version import version
from .commands.worker import worker
from .signals import interruptible

app = typer.Typer(
    name="batchproxy",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _verb in (serve, worker, check, routes, send, schema, init, reload, healthcheck, version):
    app.command()(_verb)
app.add_typer(jobs)


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def everything(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show where an unexpected fault came from.")] = False,
    no_color: Annotated[
        bool, typer.Option("--no-color", help="No colours; there are none without a terminal. [env var: NO_COLOR]")
    ] = False,
) -> None:
    """A reverse proxy that takes many requests in one, and answers each as if it had come alone.

    \b
    Examples:
      batchproxy serve --upstream http://127.0.0.1:9000
      batchproxy send batch.json
      batchproxy init && batchproxy check -c batchproxy.yaml

    \b
    Exit codes:
      0   fine
      1   it failed at run time
      2   wrong usage
      4   send, jobs: some item failed, or it was refused
      5   send, jobs: no answer
      78  the configuration is wrong
      130 interrupted

    Data goes to stdout, talk to stderr.
    """
    Manner.is_quiet, Manner.is_verbose = quiet, verbose
    if no_color:
        # Workers, and libraries that print, hear of it there.
        os.environ["NO_COLOR"] = "1"


def run() -> int:
    """Runs the command line with the arguments of the process; returns the exit code."""
    interruptible()
    # Guards and transports of the user's own are named in the configuration, and lie where the user is.
    with contextlib.suppress(OSError):
        # Last, so that a file which lies there is never taken for a part of ours.
        sys.path.append(os.getcwd())
    try:
        app(prog_name="batchproxy")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(Code.FINE if end.code is None else Code.FAILED)
        if code == Code.INTERRUPTED:
            _end_by_interrupt()
        return code
    except KeyboardInterrupt:
        _end_by_interrupt()
        return int(Code.INTERRUPTED)
    except Exception as fault:
        if Manner.is_verbose:
            raise
        print(f"batchproxy: {type(fault).__name__}: {escaped(fault)}", file=sys.stderr)
        return int(Code.FAILED)
    return int(Code.FINE)


def _end_by_interrupt() -> None:
    """As the system would have done it: a shell ends its loop only if the command in it has died of the signal."""
    if os.name == "posix":
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
