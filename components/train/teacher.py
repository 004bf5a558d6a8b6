"""The command of the Teacher's training: `python -m components.train.teacher --help`."""

from pathlib import Path

from components.common.command_line import load_recipe, run_command, step_parser
from components.common.launching.config import LAUNCH_HELP, LaunchConfig
from components.train.step import train_teacher
from matta_core.errors import UserError
from matta_core.recipe import TrainConfig


def main() -> None:
    parser = step_parser(
        "train.teacher",
        "Train a Teacher: plain training of a single size.",
        TrainConfig,
        section_name="train_teacher",
    )
    parser.add_argument("--dataset", required=True, help="a TokenizedDataset, made by prepare_data")
    parser.add_argument("--config", metavar="JSON", help="the settings as pipelines pass them, in place of a recipe")
    parser.add_argument("--launch", metavar="JSON", default="", help=LAUNCH_HELP)
    args = parser.parse_args()
    config = TrainConfig.from_json(args.config, "train_teacher") if args.config else _of_recipe(args.recipe, args.set)
    launch = LaunchConfig.from_json(args.launch, "launch") if args.launch else None
    train_teacher(config, args.dataset, output=args.output, launch_config=launch)


def _of_recipe(path: Path, overrides: list[str]) -> TrainConfig:
    recipe = load_recipe(path, overrides)
    if recipe.train_teacher is None:
        raise UserError(f"recipe {path} has no section train_teacher: its Teacher is {recipe.score_teacher.teacher}")
    return recipe.train_teacher


if __name__ == "__main__":
    run_command(main)
