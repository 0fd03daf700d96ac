"""The flaws of design §9 and some of our own, each with the check that must see it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Flaw:
    """`new` in place of `old` in `file`; `check` is what must turn red (a pytest selection)."""

    name: str
    file: str
    old: str
    new: str
    check: tuple[str, ...]


_PROMISES = "tests/integration/test_promises_"
_TORTURE = "tests/integration/test_torture.py::test_torture"

FLAWS = (
    # Design §9.
    Flaw(
        "torn: a push is committed before its last page",
        "fsm/server_push.py",
        "return not self.requested and not self.offered",
        "return True",
        ("tests/unit/fsm/test_rules.py", "tests/unit/fsm/test_convergence.py"),
    ),
    Flaw(
        "torn: the server commits whatever root its pages have",
        "adapters/push_stage.py",
        "if expected_root is not None and final.root != expected_root:",
        "if False:",
        ("tests/unit/adapters/test_page_storage.py",),
    ),
    Flaw(
        "no truncation of the local file",
        "adapters/local_apply.py",
        "        connection.execute(_INSERT, (self._page_count + 1, None))",
        "        pass",
        ("tests/unit/adapters/test_local_apply.py",),
    ),
    Flaw(
        "pages read outside a transaction",
        "adapters/local_connection.py",
        '    connection.execute("BEGIN")\n',
        "",
        ("tests/integration/test_local_live.py", "tests/unit/adapters/test_local_snapshot.py"),
    ),
    Flaw(
        "a pull token can write",
        "app/sync_server.py",
        'if claims.direction == "push":',
        "if True:",
        ("tests/interop/test_v1_hostile.py",),
    ),
    Flaw(
        "page size never compared",
        "app/pull_client.py",
        "return content.page_size == reply.page_size",
        "return True",
        (_PROMISES + "wrong_input.py::test_a_changed_page_size_is_a_whole_new_version",),
    ),
    Flaw(
        "unbounded page ranges",
        "events/limits.py",
        "RANGE_PAGES_MAX: Final = 65_536",
        "RANGE_PAGES_MAX: Final = 1 << 40",
        ("tests/unit/events", "tests/interop/test_v1_hostile.py"),
    ),
    Flaw(
        "last writer wins: the base is not compared",
        "app/push_server.py",
        "if head is not None and not hello.force and base != head.version:",
        "if False:",
        (_PROMISES + "conflict.py",),
    ),
    Flaw(
        "last writer wins: no compare-and-swap in the log",
        "adapters/event_log.py",
        '"CASE WHEN (SELECT COALESCE(MAX(seq), 0) FROM events WHERE stream = ?) = ? "',
        "\"CASE WHEN ? <> '' AND ? >= 0 \"",
        ("tests/contract/test_event_log.py",),
    ),
    Flaw(
        "the lock-byte page is content",
        "events/pages.py",
        "return LOCK_BYTE_OFFSET // size + 1",
        "return 1 << 40",
        ("tests/unit/events/test_pages.py", "tests/unit/adapters/test_local_fresh.py"),
    ),
    Flaw(
        "a login reveals which addresses exist by what it costs",
        "app/passwords.py",
        "right = await self._run(lambda: self._check(stored or self._nobody, encoded))",
        "right = stored and await self._run(lambda: self._check(stored, encoded))",
        ("tests/unit/app/test_passwords.py", "tests/unit/app/test_admin.py"),
    ),
    Flaw(
        "the token file is readable by others",
        "app/config.py",
        "FILE_MODE = 0o600",
        "FILE_MODE = 0o644",
        ("tests/unit/app/test_config.py",),
    ),
    Flaw(
        "no resume: staged segments are forgotten",
        "app/push_server.py",
        'staged_segment_ids=[row["segment_id"] for row in segments],',
        "staged_segment_ids=[],",
        (_PROMISES + "resume.py::test_a_client_killed_in_mid_push_has_sent_nothing_in_vain",),
    ),
    # Our own.
    Flaw(
        "the direction told at the handshake is not compared",
        "app/admission.py",
        "if said.decode() != claims.direction:",
        "if False:",
        (_PROMISES + "conflict.py", "-k", "direction"),
    ),
    Flaw(
        "caveats stand outside the signature chain",
        "app/macaroon.py",
        "for part in (self.identifier, *self.caveats):",
        "for part in (self.identifier, *self.caveats[:1]):",
        ("tests/unit/app/test_tokens.py",),
    ),
    Flaw(
        "an expired token is good",
        "app/tokens.py",
        "if now >= limits.exp:",
        "if False:",
        ("tests/unit/app/test_tokens.py",),
    ),
    Flaw(
        "a pull that was killed before its sidecar is a local change",
        "app/pull_session.py",
        "            self._save_sidecar(pending_path(plan.path), plan.state)\n",
        "            pass\n",
        (_PROMISES + "resume.py", "-k", "around_its_transaction and after and wal"),
    ),
    Flaw(
        "objects are not synced",
        "adapters/object_store.py",
        "def _sync_file_and_directory(path: Path) -> None:\n    _sync(path)\n",
        "def _sync_file_and_directory(path: Path) -> None:\n",
        (f"{_TORTURE}[power-storage]",),
    ),
    Flaw(
        "a pulled file is not synced before it gets its name",
        "adapters/local_fresh.py",
        "            os.fsync(self._descriptor)\n",
        "",
        (f"{_TORTURE}[power-fresh]",),
    ),
    Flaw(
        "two syncs of one file",
        "app/replica.py",
        "with SyncLock(self.path):",
        "if True:",
        (_PROMISES + "conflict.py::test_a_second_sync_of_a_file_says_so_and_stops",),
    ),
    Flaw(
        "refusals are retried",
        "app/replica.py",
        "if not error.retryable or failures > self.options.retries:",
        "if failures > min(1, self.options.retries):",
        (_PROMISES + "conflict.py::test_refusals_are_not_retried",),
    ),
    Flaw(
        "lost connections are not retried",
        "app/replica.py",
        "if not error.retryable or failures > self.options.retries:",
        "if True:",
        (_PROMISES + "resume.py", "-k", "retried_visibly"),
    ),
    Flaw(
        "an application's log is checkpointed beside its readers",
        "adapters/local_apply.py",
        '"PRAGMA wal_autocheckpoint=0",',
        '"PRAGMA wal_autocheckpoint=1",',
        (_PROMISES + "live.py", "tests/unit/adapters/test_local_apply.py"),
    ),
    Flaw(
        "a file replaced in mid-push is not noticed",
        "app/local_content.py",
        "            self._snapshot.check_not_replaced()\n",
        "            pass\n",
        (_PROMISES + "wrong_input.py::test_a_file_replaced_in_mid_push_is_noticed",),
    ),
    Flaw(
        "a frame's shape is not looked at before it is decoded",
        "events/wire.py",
        "    _check_shape(untrusted_frame, 1)\n",
        "",
        ("tests/unit/events/test_wire.py",),
    ),
    Flaw(
        "a handshake that is cut is an assertion",
        "adapters/websocket_client.py",
        "    if not isinstance(listener, WebSocketTransport):\n",
        "    assert isinstance(listener, WebSocketTransport)\n    if False:\n",
        (_PROMISES + "resume.py", "-k", "handshake"),
    ),
)
