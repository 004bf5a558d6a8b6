"""The command of plan_evaluation: `python -m components.evaluate.plan --help`."""

from components.common.command_line import load_recipe, run_command, step_parser
from components.common.disk import disk_errors_explained, make_directory
from components.evaluate.plan_evaluation import plan_evaluation


def main() -> None:
    parser = step_parser(
        "evaluate.plan", "Read once what is served, for evaluations of one model each (evaluate --plan).", None
    )
    parser.add_argument("--students", required=True, help="a StudentFamily, made by extract_students")
    args = parser.parse_args()
    plan = plan_evaluation(args.students, load_recipe(args.recipe, args.set).push.target)
    with disk_errors_explained(args.output):
        make_directory(args.output.parent)
        args.output.write_text(plan.to_json() + "\n", encoding="utf-8")
    print("\n".join(plan.models))


if __name__ == "__main__":
    run_command(main)
