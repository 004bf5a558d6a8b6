"""What models learn. OBJECTIVE is the one for which the steps train, score, certify and evaluate."""

from matta_core.objectives.next_token import NextToken
from matta_core.objectives.objective import Objective

__all__ = ["OBJECTIVE", "Objective"]

OBJECTIVE: Objective = NextToken()
