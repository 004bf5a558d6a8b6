"""What models learn. The steps train, score, certify and evaluate for OBJECTIVE."""

from matta_core.objectives.next_token import NextToken
from matta_core.objectives.objective import Objective

__all__ = ["OBJECTIVE", "Objective"]

OBJECTIVE: Objective = NextToken()
