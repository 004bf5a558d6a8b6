"""MatTA's pipeline: compile it for Kubeflow, run it on this machine, or start and schedule it on a cluster.

python -m pipelines.matta_pipeline compile --recipe pipelines/recipes/demo.yaml --output matta_pipeline.yaml
python -m pipelines.matta_pipeline run     --recipe pipelines/recipes/demo.yaml
python -m pipelines.matta_pipeline submit   --recipe my.yaml --cluster my_cluster.yaml --host https://… --wait
python -m pipelines.matta_pipeline schedule --recipe my.yaml --cluster my_cluster.yaml --host https://… \
    --name nightly --cron '0 3 * * *'
python -m pipelines.matta_pipeline plan     --recipe my.yaml --gpus 8 --gpu h100
"""

import argparse
import sys
from pathlib import Path

from components.common.command_line import load_recipe, path_option, run_command
from components.common.disk import disk_errors_explained
from components.common.interpreter import python
from components.common.parser import CommandParser
from pipelines.commands import compile, plan, schedule, submit  # noqa: A004 - the commands' names
from pipelines.commands.options import add_recipe_options


def main() -> None:
    parser = CommandParser(
        prog=f"{python()} -m pipelines.matta_pipeline",
        description="Retrain a model with MatTA: run it on this machine or on a Kubeflow cluster.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    compile.add_parser(commands)
    here = commands.add_parser("run", help="run every step here, each in its own process")
    here.add_argument("--output", type=path_option, help="a directory (default: runs/NAME, by the recipe's name)")
    here.add_argument("--docker", action="store_true", help="each step in a container of its image (make images)")
    add_recipe_options(here)
    here.set_defaults(main=run)
    submit.add_parser(commands)
    schedule.add_parser(commands)
    plan.add_parser(commands)
    args = parser.parse_args()
    args.main(args)


def run(args: argparse.Namespace) -> None:
    """Every step on this machine. Nothing heavy is imported before the recipe is read."""
    from pipelines.checks.recipe import checked

    recipe = load_recipe(args.recipe, args.set)
    with checked(args, recipe):
        from pipelines.local.retraining import scheduled
        from pipelines.local.run import StepFailedError, run_locally, show_results
    output = args.output or Path("runs") / recipe.name
    try:
        with disk_errors_explained(output), scheduled(recipe, output) as due:
            if due is None:
                return
            summary = run_locally(due, output, docker=args.docker)
    except StepFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    show_results(summary, output)


if __name__ == "__main__":
    run_command(main)
