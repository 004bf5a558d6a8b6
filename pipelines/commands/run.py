"""run: every step on this machine."""

import argparse
import sys
from pathlib import Path

from components.common.command_line import load_recipe, path_option
from components.common.disk import disk_errors_explained
from components.common.parser import CommandParser
from pipelines.commands.options import add_recipe_options


def add_parser(commands: "argparse._SubParsersAction[CommandParser]") -> None:
    parser = commands.add_parser("run", help="run every step here, each in its own process")
    parser.add_argument("--output", type=path_option, help="a directory (default: runs/NAME, by the recipe's name)")
    parser.add_argument("--docker", action="store_true", help="each step in a container of its image (make images)")
    add_recipe_options(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> None:
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
