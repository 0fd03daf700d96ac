"""The flaws of design §9 and some of our own, each with the check that must see it."""

from . import design_flaws, own_flaws
from .flaw import Flaw

FLAWS: tuple[Flaw, ...] = (*design_flaws.FLAWS, *own_flaws.FLAWS)
