"""The command of the training step: `python -m components.train --help`."""

from components.common.command_line import load_recipe, run_command, step_parser
from components.common.launching.config import LAUNCH_HELP, LaunchConfig
from components.train.step import train
from matta_core.recipe import ScoreTeacherConfig, TrainConfig


def main() -> None:
    parser = step_parser(
        "train",
        "Train the TA with its nested students under the Teacher's scores. On several GPUs: "
        """--launch '{"processes_per_node": 8}'.""",
        TrainConfig,
    )
    parser.add_argument("--dataset", required=True, help="a TokenizedDataset, made by prepare_data")
    parser.add_argument("--scores", help="TeacherScores of this dataset, made by score_teacher")
    parser.add_argument(
        "--teacher-checkpoint",
        help="with score_teacher.online: a MattaCheckpoint made by train_teacher, where the recipe names no teacher",
    )
    parser.add_argument("--teacher-config", metavar="JSON", help="with --config: score_teacher's settings, if online")
    parser.add_argument("--config", metavar="JSON", help="the settings as pipelines pass them, in place of a recipe")
    parser.add_argument("--launch", metavar="JSON", default="", help=LAUNCH_HELP)
    args = parser.parse_args()
    if args.config:
        config, push = TrainConfig.from_json(args.config, "train"), None
        given = args.teacher_config
        teacher = ScoreTeacherConfig.from_json(given, "score_teacher") if given else None
    else:
        recipe = load_recipe(args.recipe, args.set)
        config, push = recipe.train, recipe.push
        teacher = recipe.score_teacher if recipe.score_teacher.online else None
    launch = LaunchConfig.from_json(args.launch, "launch") if args.launch else None
    train(
        config,
        args.dataset,
        args.scores,
        output=args.output,
        launch_config=launch,
        push_config=push,
        teacher_config=teacher,
        teacher_checkpoint=args.teacher_checkpoint,
    )


if __name__ == "__main__":
    run_command(main)
