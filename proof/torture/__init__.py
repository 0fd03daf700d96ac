"""Real faults: killed processes, cut connections, full disks, lost power, crowds.

Each check prints and records what it counted. The oracle is always the same: what a reader gets is,
byte for byte, one pushed content; what was acknowledged is there; the retry succeeds.
"""
