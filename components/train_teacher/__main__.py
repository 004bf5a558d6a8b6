"""The command of the Teacher's training: `python -m components.train_teacher --help`."""

from components.cli import load_recipe, run_command, step_parser
from components.train_teacher.step import train_teacher
from matta_core.config import TrainConfig
from matta_core.errors import UserError


def main() -> None:
    parser = step_parser("train_teacher", "Train a Teacher: plain training of a single size.", TrainConfig)
    parser.add_argument("--dataset", required=True, help="a TokenizedDataset, made by prepare_data")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe, args.set)
    if recipe.train_teacher is None:
        raise UserError(
            f"recipe {args.recipe} has no section train_teacher: its Teacher is {recipe.score_teacher.teacher}"
        )
    train_teacher(recipe.train_teacher, args.dataset, output=args.output)


if __name__ == "__main__":
    run_command(main)
