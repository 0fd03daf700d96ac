"""Servers of other makers that tests share: one of each for a test process, started when needed.

Each pytest-xdist worker has its own, so workers need not agree on anything; starting one costs half
a second. A test gets a database or a bucket of its own from it.
"""

import signal
from collections.abc import Iterator

import pytest
from tests.helpers_postgres import Postgres, postgres_server
from tests.helpers_s3 import S3, s3_server

# A shell that runs the tests in the background has them ignore Ctrl-C, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    with s3_server() as server:
        yield server
