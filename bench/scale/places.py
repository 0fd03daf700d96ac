"""Where each part is measured: a place of its own, fresh and empty.

Embedded, that is a data directory. Scaled out, it is a database of a PostgreSQL that is started
here, with every commit synced, and a bucket of moto's S3 server, which is an emulator in Python, or
a directory, where what is measured is not the store. What the environment names already is taken as
it is, for all parts.
"""

import base64
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.helpers_postgres import postgres_server
from tests.helpers_s3 import s3_server

Fresh = Callable[[Path, bool], AbstractContextManager[None]]
"""(directory of the part, whether its objects go to S3) → a place in the environment."""
NAMES = ("DATABASE_URL", "PAGE_STORE_URL", "SESSION_KEY")


@contextmanager
def as_it_is(directory: Path, on_s3: bool) -> Iterator[None]:
    """What the environment names, else the data directory that the part chooses."""
    yield


@contextmanager
def scaled_out() -> Iterator[Fresh]:
    """Starts PostgreSQL and an S3 server, and stops them at the end."""
    with postgres_server(durable=True) as postgres, s3_server() as s3:

        @contextmanager
        def fresh(directory: Path, on_s3: bool) -> Iterator[None]:
            store = s3.bucket() if on_s3 else f"file://{directory}/objects"
            key = base64.b64encode(os.urandom(32)).decode()
            place = dict(zip(NAMES, (postgres.database(), store, key), strict=True))
            with _environment(place | s3.environment):
                yield

        yield fresh


@contextmanager
def _environment(more: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
