"""Checks of the checks: flaws planted one at a time, and mutants (`make prove-controls`).

Everything happens in copies of the tree; the tree itself is never changed.
"""
