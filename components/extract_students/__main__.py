"""The command of the extraction step: `python -m components.extract_students --help`."""

from components.common.command_line import load_recipe, run_command, step_parser
from components.extract_students.step import extract_students
from matta_core.recipe import ExtractStudentsConfig


def main() -> None:
    parser = step_parser(
        "extract_students",
        "Cut students out of a trained TA, as plain Hugging Face checkpoints with certificates.",
        ExtractStudentsConfig,
    )
    parser.add_argument("--checkpoint", required=True, help="a MattaCheckpoint, made by train")
    parser.add_argument("--dataset", required=True, help="the TokenizedDataset it was trained on")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe, args.set)
    extract_students(recipe.extract_students, args.checkpoint, args.dataset, output=args.output)


if __name__ == "__main__":
    run_command(main)
