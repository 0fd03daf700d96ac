"""Clients converge, whatever happens: the model of `tests.model.convergence`, in short.

`make prove` runs the same for tens of thousands of steps (`proof.prove`).
"""

from hypothesis import HealthCheck, settings
from tests.model.convergence import Convergence, EmbeddedConvergence

CI = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

TestConvergence = Convergence.TestCase
TestConvergence.settings = CI
TestEmbeddedConvergence = EmbeddedConvergence.TestCase
TestEmbeddedConvergence.settings = CI
