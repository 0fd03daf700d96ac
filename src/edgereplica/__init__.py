"""EdgeReplica: move SQLite databases between machines, page by page."""
