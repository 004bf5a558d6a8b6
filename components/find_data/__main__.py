"""The command of find_data: `python -m components.find_data --help`."""

import json
from dataclasses import asdict

from components.common.command_line import load_recipe, run_command, step_parser
from components.find_data.step import Sections, find_data, finish, give_up, renew, status
from matta_core.artifacts import open_artifact
from matta_core.errors import UserError
from matta_core.recipe import RetrainConfig


def main() -> None:
    parser = step_parser(
        "find_data",
        "Find the newest span of data and take the lease for a run, or say why there is nothing to do.",
        RetrainConfig,
        section_name="retrain",
        output_required=None,
    )
    parser.add_argument("--run", help="an id by which the run is known when it is tried again")
    parser.add_argument("--scheduled-time", default="", help="no later span: 20261124020000 or ISO 8601, in UTC")
    others = parser.add_mutually_exclusive_group()
    others.add_argument("--status", action="store_true", help="who is at work, and what was processed")
    others.add_argument("--renew", metavar="SPAN", help="take the lease of --run again, if no other run is at work")
    others.add_argument("--record", metavar="SPAN", help="note that --run has processed it; give back the lease")
    others.add_argument("--release", action="store_true", help="give back the lease of --run, or, without, whoever's")
    parser.add_argument("--push-record", help="with --record: the PushRecord that push made")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe, args.set)
    if recipe.retrain is None:
        raise UserError(f"{args.recipe} has no section retrain: see pipelines/recipes/nightly.yaml")
    sections: Sections = {"config": recipe.retrain, "push_config": recipe.push, "name": recipe.name}
    if args.status:
        print("\n".join(status(**sections)))
    elif args.release:
        give_up(**sections, run=args.run)
    elif args.run is None:
        parser.error("required: --run")
    elif args.renew:
        renew(**sections, run=args.run, span=args.renew)
    elif args.record:
        if args.push_record is None:
            parser.error("--record needs --push-record")
        pushed = open_artifact(args.push_record, "PushRecord").metadata["pushed"]
        finish(**sections, run=args.run, span=args.record, pushed=pushed)
    else:
        print(json.dumps(asdict(find_data(**sections, run=args.run, scheduled_time=args.scheduled_time))))


if __name__ == "__main__":
    run_command(main)
