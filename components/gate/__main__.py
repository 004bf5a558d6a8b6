"""The command of the gate: `python -m components.gate --help`."""

from components.common.command_line import load_recipe, run_command, step_parser
from components.gate.explain import explained, replay
from components.gate.step import decision_of, gate, open_inputs
from matta_core.recipe import GateConfig


def main() -> None:
    parser = step_parser("gate", "Decide which students are good enough to serve.", GateConfig, output_required=False)
    parser.add_argument("--evaluation", help="an EvaluationReport, made by evaluate")
    parser.add_argument("--students", help="the StudentFamily that was evaluated")
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--explain",
        metavar="DECISION",
        help="tell the reasons of a GateDecision and decide again from its files and its own settings: status 1 where "
        "that does not give the same, bit for bit. Its inputs are looked for beside it, or given by --evaluation and "
        "--students",
    )
    other.add_argument("--dry-run", action="store_true", help="decide, tell the reasons, and write nothing")
    args = parser.parse_args()
    if args.explain:
        if args.set or args.output:
            parser.error(
                "--explain decides by the decision's own settings, and writes nothing: leave out --set, --output"
            )
        lines, same = replay(args.explain, args.evaluation, args.students)
        print("\n".join(lines))
        raise SystemExit(0 if same else 1)
    if args.dry_run and args.output:
        parser.error("--dry-run writes nothing: leave out --output")
    needed = ("evaluation", "students", *(() if args.dry_run else ("output",)))
    if missing := [f"--{option}" for option in needed if getattr(args, option) is None]:
        parser.error(f"required: {', '.join(missing)}")
    recipe = load_recipe(args.recipe, args.set)
    if args.dry_run:
        decision = decision_of(recipe.gate, *open_inputs(args.evaluation, args.students))
        print("\n".join([*explained(decision), "Nothing was written."]))
        return
    gate(recipe.gate, args.evaluation, args.students, output=args.output)


if __name__ == "__main__":
    run_command(main)
