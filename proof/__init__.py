"""Long-running checks of the protocol; what they found last stands in specs/evidence.md."""
