"""The command of evaluate: `python -m components.evaluate --help`."""

from components.common.command_line import load_recipe, path_option, run_command, step_parser
from components.evaluate.plan_evaluation import read_plan
from components.evaluate.step import evaluate
from matta_core.recipe import EvaluateConfig


def main() -> None:
    parser = step_parser(
        "evaluate",
        "Evaluate all students, the TA, the Teacher and what is served now under push.target.",
        EvaluateConfig,
    )
    parser.add_argument("--dataset", required=True, help="a TokenizedDataset, made by prepare_data")
    parser.add_argument("--students", required=True, help="a StudentFamily, made by extract_students")
    parser.add_argument(
        "--teacher-checkpoint",
        help="the MattaCheckpoint that train_teacher made, where the recipe has no score_teacher.teacher",
    )
    parser.add_argument(
        "--plan", type=path_option, help="what components.evaluate.plan wrote: evaluate one model of it (--model)"
    )
    parser.add_argument("--model", help="the one model to evaluate; its part is for components.evaluate.merge")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe, args.set)
    evaluate(
        recipe.evaluate,
        args.dataset,
        args.students,
        teacher=recipe.score_teacher.teacher,
        teacher_checkpoint=args.teacher_checkpoint,
        push_target=recipe.push.target,
        plan=read_plan(args.plan) if args.plan else None,
        model=args.model,
        output=args.output,
    )


if __name__ == "__main__":
    run_command(main)
