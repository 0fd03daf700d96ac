"""The checks by name."""

from functools import partial

from proof.running import Check

from . import crowds, cuts, full_disks, idlers, kills, power, power_client, power_server

CHECKS = {
    "kill-server": Check(
        kills.kill_server, 500, "kills", "SIGKILL of the server in a push, and its restart", 6,
        lacks=partial(kills.lacks, "push"),
    ),
    "kill-push": Check(
        kills.kill_push, 500, "kills", "SIGKILL of the client in a push", 6,
        lacks=partial(kills.lacks, "push"),
    ),
    "kill-pull": Check(
        kills.kill_pull, 500, "kills", "SIGKILL of the client in a pull, into three kinds", 18,
        lacks=partial(kills.lacks, "pull"),
    ),
    "cut": Check(
        cuts.cut, 2000, "random bytes",
        "connections cut, reset, stalled, half-closed, dribbled; and between all frames", 2,
        lacks=cuts.lacks,
    ),
    "disk-full": Check(
        full_disks.disk_full, 300, "limits", "so many for the server, and as many for clients", 12,
        lacks=full_disks.lacks,
    ),
    "power-storage": Check(
        power_server.page_storage, 1000, "images", "power lost under a server in a push", 50,
        lacks=power.lacks,
    ),
    "power-fresh": Check(
        power_client.fresh_pull, 1000, "images", "power lost under a pull that makes a file", 50,
        lacks=power.lacks,
    ),
    "power-in-place": Check(
        power_client.pull_in_place, 1000, "images",
        "power lost under a pull that changes a file", 125,
        lacks=power.lacks,
    ),
    "one-database": Check(
        crowds.one_database, 20, "rounds", "32 clients push to one database", 2
    ),
    "many-databases": Check(crowds.many_databases, 10, "rounds", "64 databases at once"),
    "beside-writer": Check(
        crowds.beside_writer, 200, "pushes", "of a database that is written without pause", 5
    ),
    "idle": Check(
        idlers.idle_connections, 500, "connections",
        "so many idle and as many dribbling ones beside a client", 25, processes=1,
        lacks=idlers.lacks,
    ),
}  # fmt: skip
