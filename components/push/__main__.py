"""The command of push: `python -m components.push --help`."""

from components.cli import load_recipe, run_command, step_parser
from components.push.step import push
from matta_core.config import PushConfig


def main() -> None:
    parser = step_parser("push", "Push the blessed students to where they are served.", PushConfig)
    parser.add_argument("--decision", required=True, help="a GateDecision, made by gate")
    parser.add_argument("--students", required=True, help="the StudentFamily that it was made for")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe, args.set)
    push(recipe.push, args.decision, args.students, output=args.output)


if __name__ == "__main__":
    run_command(main)
