"""The command of the training step: `python -m components.train --help`."""

from components.cli import load_recipe, run_command, step_parser
from components.train.step import train
from matta_core.config import TrainConfig


def main() -> None:
    parser = step_parser(
        "train",
        "Train the TA with its nested students under the Teacher's scores. On several GPUs: "
        "torchrun --nproc-per-node N -m components.train …",
        TrainConfig,
    )
    parser.add_argument("--dataset", required=True, help="a TokenizedDataset, made by prepare_data")
    parser.add_argument("--scores", help="TeacherScores of this dataset, made by score_teacher")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe, args.set)
    train(recipe.train, args.dataset, args.scores, output=args.output)


if __name__ == "__main__":
    run_command(main)
