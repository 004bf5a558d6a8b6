"""MatTA's pipeline: compile it for Kubeflow, or run it on this machine.

python -m pipelines.matta_pipeline compile --recipe pipelines/recipes/demo.yaml --output matta_pipeline.yaml
python -m pipelines.matta_pipeline run     --recipe pipelines/recipes/demo.yaml
"""

import argparse
import sys
from pathlib import Path

from components.cli import DEFAULT_RECIPE, load_recipe, run_command
from components.step import disk_errors_explained
from matta_core.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.matta_pipeline",
        description="Retrain a model with MatTA: compile the pipeline for Kubeflow, or run it on this machine.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    compile_parser = commands.add_parser("compile", help="write the pipeline as IR YAML, to be uploaded to Kubeflow")
    compile_parser.add_argument("--output", type=Path, default=Path("matta_pipeline.yaml"), help="a .yaml file")
    run_parser = commands.add_parser("run", help="run every step here, each in its own process")
    run_parser.add_argument("--output", type=Path, help="a directory (default: runs/NAME, by the recipe's name)")
    for command in (compile_parser, run_parser):
        command.add_argument("--recipe", type=Path, default=DEFAULT_RECIPE, help="a YAML file (default: the demo's)")
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="override one setting, for instance train.steps=100; `python -m components.STEP --help` lists them",
        )
    args = parser.parse_args()
    recipe = load_recipe(args.recipe, args.set)
    if args.command == "compile":
        from kfp.compiler import Compiler

        from pipelines.dag import build_pipeline

        if args.output.suffix not in (".yaml", ".yml"):
            raise UserError(f"--output must end in .yaml, got {args.output}")
        with disk_errors_explained(args.output):
            args.output.parent.mkdir(parents=True, exist_ok=True)
            Compiler().compile(build_pipeline(recipe), str(args.output))
        print(f"wrote {args.output}")
        return
    from pipelines.local_run import StepFailedError, run_locally, show_results

    output = args.output or Path("runs") / recipe.name
    try:
        with disk_errors_explained(output):
            summary = run_locally(recipe, output)
    except StepFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    show_results(summary, output)


if __name__ == "__main__":
    run_command(main)
