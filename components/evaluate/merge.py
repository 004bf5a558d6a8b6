"""The command of merge_evaluations: `python -m components.evaluate.merge --help`."""

from components.common.command_line import run_command, step_parser
from components.evaluate.merge_evaluations import merge_evaluations


def main() -> None:
    parser = step_parser("evaluate.merge", "Put the parts of an evaluation together, one model in each.", None)
    parser.add_argument("--parts", required=True, nargs="+", help="EvaluationParts, made by evaluate --plan --model")
    args = parser.parse_args()
    merge_evaluations(args.parts, output=args.output)


if __name__ == "__main__":
    run_command(main)
