"""Real faults: killed processes, cut connections, full disks, lost power, crowds (`make torture`).

Each check prints and records its counts through `proof.evidence`. The oracle is always the same:
what a reader gets is, byte for byte, one pushed content; what was acknowledged is there; the retry
succeeds. Processes are started by a fork server, so that a server restarts in a fraction of a
second and hundreds of kills take minutes.
"""
