"""Rules: what applications do to their databases, with SQL and with the file itself."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule
from tests.model.client import make_tables
from tests.model.commands import Commands, clients, rarely

page_sizes = st.sampled_from((512, 1024, 4096, 65536))
journal_modes = st.sampled_from(("WAL", "DELETE", "TRUNCATE"))


class ApplicationRules(Commands):
    def _apply(self, number: int, work: Callable[[Any], None], *, killed: bool = False) -> None:
        client = self.clients[number]
        if client.file.write(work, killed=killed):
            self.acted = True
        self._written(client)

    @initialize()
    def first_files(self) -> None:
        for client in self.clients[:2]:
            client.file.write(make_tables, killed=False)
            client.pages = client.file.pages()

    @rule(number=clients, rows=st.integers(1, 40), size=st.integers(1, 3000), killed=rarely)
    def write(self, number: int, rows: int, size: int, killed: bool) -> None:
        self.pushes += 1

        def work(connection: Any) -> None:
            make_tables(connection)
            connection.execute("BEGIN")
            for row in range(rows):
                value = f"{number}/{self.pushes}/{row}".encode().ljust(size, b".")
                connection.execute("INSERT INTO t (x) VALUES (?)", (value,))
            connection.execute("COMMIT")

        self._apply(number, work, killed=killed)

    @rule(number=clients, killed=rarely)
    def change_a_few(self, number: int, killed: bool) -> None:
        self.pushes += 1

        def work(connection: Any) -> None:
            make_tables(connection)
            value = f"{number}:{self.pushes}"
            connection.execute("UPDATE t SET x = ? WHERE id % 7 = 3 OR id = 1", (value,))
            connection.execute("INSERT OR REPLACE INTO t (id, x) VALUES (1, ?)", (value,))

        self._apply(number, work, killed=killed)

    @rule(number=clients, share=st.integers(1, 4))
    def delete_and_vacuum(self, number: int, share: int) -> None:
        def work(connection: Any) -> None:
            make_tables(connection)
            connection.execute("DELETE FROM t WHERE id % ? <> 0", (share,))
            connection.execute("VACUUM")

        self._apply(number, work)

    @rule(number=clients, page_size=page_sizes)
    def change_page_size(self, number: int, page_size: int) -> None:
        def work(connection: Any) -> None:
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute(f"PRAGMA page_size={page_size}")
            connection.execute("VACUUM")
            connection.execute(f"PRAGMA journal_mode={mode}")

        self._apply(number, work)

    @rule(number=clients, mode=journal_modes)
    def change_journal_mode(self, number: int, mode: str) -> None:
        def work(connection: Any) -> None:
            connection.execute(f"PRAGMA journal_mode={mode}")

        self._apply(number, work)

    @rule(number=clients, gone=rarely)
    def start_anew(self, number: int, gone: bool) -> None:
        """Another database in the file's place, or none; the sidecar is gone or does not fit."""
        client = self.clients[number]
        if client.busy:
            return
        self.acted = True
        client.file.start_anew(keep_file=not gone)
        client.start_anew()
        client.pages = client.file.pages()
