"""The command of push: `python -m components.push --help`."""

import argparse
import json
from pathlib import Path

from components.common.command_line import DEFAULT_RECIPE, load_recipe, run_command, step_parser
from components.common.disk import disk_errors_explained
from components.push import operations
from components.push.step import push
from matta_core.recipe import PushConfig

_INPUTS = {
    "decision": "a GateDecision, made by gate",
    "students": "the StudentFamily that it was made for",
    "evaluation": "the EvaluationReport that it was made from",
}


def main() -> None:
    parser = _parser()
    args = parser.parse_args()
    if args.to is not None and args.rollback is None:
        parser.error("--to goes with --rollback")
    operation = next((name for name in ("history", "rollback", "pin", "unpin") if getattr(args, name)), None)
    if operation is not None and args.target is None and args.recipe is DEFAULT_RECIPE:
        parser.error(f"--{operation} needs --target, or the --recipe that names it")
    target = [] if args.target is None else [f"push.target={json.dumps(args.target)}"]
    config = load_recipe(args.recipe, [*args.set, *target]).push
    if operation is None:
        if missing := [f"--{option}" for option in (*_INPUTS, "output") if getattr(args, option) is None]:
            parser.error(f"required: {', '.join(missing)}")
        push(config, args.decision, args.students, args.evaluation, output=args.output)
        return
    with disk_errors_explained(Path(config.target), "push.target"):
        if operation == "history":
            print("\n".join(operations.history(config, args.history)))
        elif operation == "rollback":
            operations.rollback(config, args.rollback, args.to)
        elif operation == "pin":
            operations.pin(config, *args.pin)
        else:
            operations.unpin(config, *args.unpin)


def _parser() -> argparse.ArgumentParser:
    parser = step_parser(
        "push", "Push the blessed students to where they are served.", PushConfig, output_required=False
    )
    for name, explanation in _INPUTS.items():
        parser.add_argument(f"--{name}", help=explanation)
    parser.add_argument("--target", help="in place of the recipe's push.target")
    group = parser.add_argument_group("operations", "on what was pushed; they need none of the inputs above")
    one = group.add_mutually_exclusive_group()
    one.add_argument("--history", metavar="SIZE", help="every move of the size's pointer")
    one.add_argument("--rollback", metavar="SIZE", help="make the version before the current one current again")
    one.add_argument("--pin", nargs=2, metavar=("SIZE", "VERSION"), help="never delete this version")
    one.add_argument("--unpin", nargs=2, metavar=("SIZE", "VERSION"), help="let it be deleted when its time comes")
    group.add_argument("--to", metavar="VERSION", help="with --rollback: this one (see --history)")
    return parser


if __name__ == "__main__":
    run_command(main)
