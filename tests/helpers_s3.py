"""An S3 server of the tests' own: moto, in a process of its own, on a free port.

moto honours conditional writes (If-None-Match), which page storage stands on.
"""

import itertools
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

START_SECONDS_MAX = 60


class S3:
    """A running server; every `bucket()` is a fresh, empty one."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self._numbers = itertools.count(1)

    @property
    def environment(self) -> dict[str, str]:
        """What a client of this server needs in its environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

    def bucket(self) -> str:
        """The `s3://` URL of a fresh bucket, with a prefix."""
        name = f"bucket-{next(self._numbers)}"
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
        _opener().open(request, timeout=START_SECONDS_MAX).close()
        return f"s3://{name}/some/prefix"


@contextmanager
def s3_server() -> Iterator[S3]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": "67108864"},
    )
    try:
        _wait(process, port)
        yield S3(port)
    finally:
        process.terminate()
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", port: int) -> None:
    for _ in range(START_SECONDS_MAX * 20):
        try:
            _opener().open(f"http://127.0.0.1:{port}/moto-api/data.json", timeout=10).close()
        except (urllib.error.URLError, ConnectionError):
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError("the S3 server did not start") from None
        else:
            return
    raise AssertionError("the S3 server did not start")


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
