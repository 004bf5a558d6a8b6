"""The command of the gate: `python -m components.gate --help`."""

from components.cli import load_recipe, run_command, step_parser
from components.gate.step import gate
from matta_core.config import GateConfig


def main() -> None:
    parser = step_parser("gate", "Decide which students are good enough to serve.", GateConfig)
    parser.add_argument("--evaluation", required=True, help="an EvaluationReport, made by evaluate")
    parser.add_argument("--students", required=True, help="the StudentFamily that was evaluated")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe, args.set)
    gate(recipe.gate, args.evaluation, args.students, output=args.output)


if __name__ == "__main__":
    run_command(main)
