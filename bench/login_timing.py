"""Does the time of a refused login tell whether there is such a user?

    python -m bench.login_timing [--tries 200]

Asks a real server, over HTTP on this machine, 200 times each with a wrong password of a known user
and with an unknown one, in pairs whose order alternates, and prints the difference of the medians.
The goal is under 5 %; a measurement is above it only by noise. Also checks that both answers are
the same words. Exit code 1 when the goal is missed.
"""

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.helpers_server import SERVICE, Account, ServerProcess

GOAL_PERCENT: Final = 5.0
KNOWN, UNKNOWN = "ann@example.org", "bob@example.org"
NO_LIMIT: Final = str(10**6)


class Logins:
    """Refused logins over one kept connection: seconds and answers for each address."""

    def __init__(self, base: str) -> None:
        self._connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=60)
        self.seconds: dict[str, list[float]] = {KNOWN: [], UNKNOWN: []}
        self.answers: set[bytes] = set()

    def refuse(self, email: str, *, count: bool = True) -> None:
        body = json.dumps({"email": email, "password": "not the right one"})
        began = time.perf_counter()
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", SERVICE + "Login", body, headers)
        answer = self._connection.getresponse().read()
        if count:
            self.seconds[email].append(time.perf_counter() - began)
            self.answers.add(answer)

    def close(self) -> None:
        self._connection.close()


def measure(base: str, tries: int) -> Logins:
    logins = Logins(base)
    for email in (KNOWN, UNKNOWN):
        logins.refuse(email, count=False)
    for number in range(tries):
        pair = (KNOWN, UNKNOWN) if number % 2 else (UNKNOWN, KNOWN)
        for email in pair:
            logins.refuse(email)
    logins.close()
    return logins


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Time refused logins.")
    parser.add_argument("--tries", type=int, default=200)
    tries = parser.parse_args(arguments).tries
    limits = {
        "LOGIN_ATTEMPTS_PER_ACCOUNT_PER_MINUTE": NO_LIMIT,
        "LOGIN_ATTEMPTS_PER_ADDRESS_PER_MINUTE": NO_LIMIT,
    }
    with (
        tempfile.TemporaryDirectory() as directory,
        ServerProcess(Path(directory) / "data", environment=limits) as server,
    ):
        Account.signup(server.base, KNOWN)
        logins = measure(server.base, tries)
    known, unknown = (statistics.median(logins.seconds[email]) for email in (KNOWN, UNKNOWN))
    percent = 100 * abs(known - unknown) / min(known, unknown)
    print(f"wrong password: median {known * 1000:.2f} ms over {tries} tries")
    print(f"unknown user:   median {unknown * 1000:.2f} ms over {tries} tries")
    print(f"difference:     {percent:.2f} % (goal: under {GOAL_PERCENT:g} %)")
    print(f"answers:        {'the same words' if len(logins.answers) == 1 else 'they differ!'}")
    return int(percent >= GOAL_PERCENT or len(logins.answers) != 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
