"""What the process has to say: events on standard error, each named in its first word.

Knows: the standard library's logging. Must not know: who speaks.
"""

from __future__ import annotations

import logging
import sys

import msgspec

from .logs import Lines, moment, printable

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_NOISY = ("watchfiles", "httpx", "httpcore", "websockets", "asyncio")


def set_up(level: str, form: str) -> None:
    """Everything that is logged goes to standard error; `form` is `json`, `console`, or `auto` for what fits there."""
    is_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    global _lines
    _lines = Lines(sys.stderr)
    handler = _Handler(_lines)
    handler.setFormatter(_JsonForm() if is_json else _TextForm())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    # What uvicorn tells of its own life is told by us, in better order.
    server = logging.getLogger("uvicorn.error")
    server.setLevel(logging.WARNING)
    server.addFilter(_is_news)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


_lines: Lines | None = None


class _Handler(logging.Handler):
    """Hands over to a thread: standard error that nobody reads must not stop the loop."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._out = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._out.put(self.format(record).encode("utf-8", "backslashreplace"))
        except Exception:
            self.handleError(record)


def close_log(patience: float = 2.0) -> None:
    """Returns when all has been written, or after so many seconds."""
    if _lines is not None:
        _lines.close(patience)


_LEFT_OFF = "ASGI callable returned without completing response."


def _is_news(record: logging.LogRecord) -> bool:
    """An answer that broke off is raised so that the server cuts the connection; why, has been logged already. One that
    nobody takes is left off, and its line in the access log says so."""
    raised = record.exc_info[0] if record.exc_info else None
    return (raised is None or raised.__name__ != "Broken") and record.msg != _LEFT_OFF


class _TextForm(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        lines = [printable(line) for line in text.split("\n")]
        return f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower():7} " + "\n  ".join(lines)


class _JsonForm(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event, _, detail = record.getMessage().partition(":")
        line = {"ts": moment(record.created), "level": record.levelname.lower(), "msg": event}
        line["logger"] = record.name
        if detail.strip():
            line["detail"] = detail.strip()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()
