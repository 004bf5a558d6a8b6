"""The command of the scoring step: `python -m components.score_teacher --help`."""

from components.common.command_line import load_recipe, run_command, step_parser
from components.score_teacher.step import score_teacher
from matta_core.recipe import ScoreTeacherConfig


def main() -> None:
    parser = step_parser(
        "score_teacher",
        "Compute the Teacher's top-k log-probabilities and tail mass at every predicted token, once.",
        ScoreTeacherConfig,
    )
    parser.add_argument("--dataset", required=True, help="a TokenizedDataset, made by prepare_data")
    parser.add_argument(
        "--teacher-checkpoint", help="a MattaCheckpoint made by train_teacher, where the recipe names no teacher"
    )
    args = parser.parse_args()
    recipe = load_recipe(args.recipe, args.set)
    score_teacher(recipe.score_teacher, args.dataset, args.teacher_checkpoint, output=args.output)


if __name__ == "__main__":
    run_command(main)
