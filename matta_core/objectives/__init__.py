"""What models learn. OBJECTIVE is the one for which the steps train, score, certify and evaluate."""

from matta_core.objectives.next_token import NextToken
from matta_core.objectives.objective import Objective

OBJECTIVE: Objective = NextToken()
