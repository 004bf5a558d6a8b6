"""The command of the scoring step: `python -m components.score_teacher --help`."""

from components.common.command_line import load_recipe, run_command, step_parser
from components.common.launching.config import LAUNCH_HELP, LaunchConfig
from components.score_teacher.step import score_teacher
from matta_core.recipe import ScoreTeacherConfig


def main() -> None:
    parser = step_parser(
        "score_teacher",
        "Compute the Teacher's top-k log-probabilities and samples of the rest at every predicted token, once.",
        ScoreTeacherConfig,
    )
    parser.add_argument("--dataset", required=True, help="a TokenizedDataset, made by prepare_data")
    parser.add_argument(
        "--teacher-checkpoint", help="a MattaCheckpoint made by train_teacher, where the recipe names no teacher"
    )
    parser.add_argument("--config", metavar="JSON", help="the settings as pipelines pass them, in place of a recipe")
    parser.add_argument("--launch", metavar="JSON", default="", help=LAUNCH_HELP)
    args = parser.parse_args()
    config = ScoreTeacherConfig.from_json(args.config, "score_teacher") if args.config else None
    config = config or load_recipe(args.recipe, args.set).score_teacher
    launch = LaunchConfig.from_json(args.launch, "launch") if args.launch else None
    score_teacher(config, args.dataset, args.teacher_checkpoint, output=args.output, launch_config=launch)


if __name__ == "__main__":
    run_command(main)
