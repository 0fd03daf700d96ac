"""Structured logs without secrets.

Every line of the process, ours and the libraries', goes through one chain to standard output. The
last step before rendering takes secrets out, whatever put them there:

- every text that the current request registered with `hold_secret` (its bearer token, its password,
  its query string) is replaced wherever it stands, in a message, a value or a traceback;
- whatever has the shape of one of our tokens or of an Authorization header is replaced;
- the values of fields with a telling name are replaced.

There too control characters, which a client can put into a path, become what stands for them in
Python; a value with a line break is quoted by the renderer, but tracebacks keep theirs.

Libraries speak from warnings up only: at debug level aiosqlite logs the parameters of statements
and websockets the headers of requests. Tracebacks are plain: no local variables.
"""

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Literal, TextIO

import structlog

from ..events.limits import LOG_VALUE_CHARS_MAX, SECRET_CHARS_MIN
from .macaroon import TOKEN_PREFIX

LogFormat = Literal["console", "json"]

REDACTED: Final = "[redacted]"
_SECRET_SHAPES: Final = re.compile(
    rf"{TOKEN_PREFIX}[A-Za-z0-9_-]+=*|\b(?:Bearer|Basic)\s+[^\s\"',;]+|\$argon2id\$[^\s\"']+",
    re.IGNORECASE,
)
_SECRET_NAMES: Final = re.compile(
    r"password|passwd|secret|token|authorization|cookie|session_key|credential|query", re.IGNORECASE
)
_held: ContextVar[tuple[str, ...]] = ContextVar("held_secrets", default=())


def hold_secret(*secrets: str) -> None:
    """Keep `secrets` out of every log line of this request (and of the tasks it starts)."""
    spellings: list[str] = []
    for secret in secrets:
        if len(secret) >= SECRET_CHARS_MIN:
            escaped = (json.dumps(secret)[1:-1], repr(secret)[1:-1])
            spellings.extend({secret, *escaped})
    # The longest first, so that no secret that contains another is left in part.
    _held.set(tuple(sorted({*_held.get(), *spellings}, key=len, reverse=True)))


@contextmanager
def holding_no_secrets() -> Iterator[None]:
    """A scope of its own for `hold_secret`: one request."""
    before = _held.set(())
    try:
        yield
    finally:
        _held.reset(before)


def redact(text: str) -> str:
    """`text` without anything that this request holds secret or that looks like a token, and
    with nothing in it that would drive the terminal of who reads it."""
    for secret in _held.get():
        if secret in text:
            text = text.replace(secret, REDACTED)
    text = _SECRET_SHAPES.sub(REDACTED, text)
    text = text if len(text) <= LOG_VALUE_CHARS_MAX else text[:LOG_VALUE_CHARS_MAX] + "…"
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


def _clean(value: Any, name: str = "") -> Any:
    if name and _SECRET_NAMES.search(name):
        return REDACTED
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {redact(str(key)): _clean(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(inner) for inner in value]
    return redact(value if isinstance(value, str) else repr(value))


def redact_event(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The structlog processor that stands right before the renderer."""
    return {redact(key): _clean(value, key) for key, value in event.items()}


class _StandardStream(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stdout` or `sys.stderr` is at that moment."""

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self._stdout = name == "stdout"
        super().__init__(sys.stdout if self._stdout else sys.stderr)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout if self._stdout else sys.stderr
        super().emit(record)


def configure_logs(
    level: str = "info",
    log_format: LogFormat = "console",
    stream: TextIO | Literal["stdout", "stderr"] = "stdout",
) -> None:
    """Send all logs of this process to `stream` in one of two formats."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = _StandardStream(stream) if isinstance(stream, str) else logging.StreamHandler(stream)
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=handler.stream.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            redact_event,
            renderer,
        ],
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in list(logging.Logger.manager.loggerDict):
        # A library that was imported earlier may have set a level or a handler of its own.
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(logging.NOTSET)
    logging.getLogger("edgereplica").setLevel(level.upper())
    logging.captureWarnings(True)
