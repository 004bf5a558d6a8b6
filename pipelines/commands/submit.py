"""submit: upload the pipeline where its content is new, start a run, follow it with --wait."""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from components.common.parser import CommandParser
from matta_core.errors import UserError
from pipelines.commands.options import add_cluster_options, add_kubeflow_options, add_recipe_options

if TYPE_CHECKING:
    from matta_core.recipe import Recipe
    from pipelines.cluster import ClusterProfile

POLL_SECONDS = 10.0
EXIT_STATUSES = """\
exit status:
  0    started; with --wait: succeeded
  1    the run failed or was cancelled
  2    a mistake of yours, or Kubeflow refused: the message says what to change
  4    --timeout passed; the run goes on
  5    Kubeflow gave no useful answer: try again
  130  interrupted; a run that was started goes on
"""


def add_parser(commands: "argparse._SubParsersAction[CommandParser]") -> None:
    parser = commands.add_parser(
        "submit",
        help="start a run on a Kubeflow cluster",
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_cluster_options(parser, required=True)
    add_recipe_options(parser)
    add_kubeflow_options(parser)
    parser.add_argument("--experiment", help="a group of runs, made where there is none (default: the recipe's name)")
    parser.add_argument("--run-name", help="unique in the experiment (default: the recipe's name, the time, a number)")
    parser.add_argument("--wait", action="store_true", help="follow the run to its end")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="of --wait (default: none)")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> None:
    from components.common.command_line import load_recipe
    from pipelines.checks.recipe import checked
    from pipelines.cluster import load_cluster

    if args.timeout is not None and not (args.wait and args.timeout > 0):
        raise UserError(f"--timeout must be > 0 seconds and goes with --wait, got {args.timeout:g}")
    recipe, cluster = load_recipe(args.recipe, args.set), load_cluster(args.cluster, args.cluster_set)
    check_cluster(recipe, cluster)
    with checked(args, recipe, cluster):
        from pipelines.commands.kubeflow import connected
        from pipelines.kubeflow.follow import WaitTimeoutError, follow
        from pipelines.kubeflow.submit import make_package, start_run, unique_run_name, upload
    name = args.run_name or unique_run_name(recipe.name)
    experiment = args.experiment or recipe.name
    where = f"look for a run named {name} before you repeat this"
    try:
        with tempfile.TemporaryDirectory() as folder, connected(args, cluster.namespace) as client:
            package = make_package(args.recipe, args.set, cluster, Path(folder)).with_parameters(args.parameter)
            version = upload(client, package)
            print(f"pipeline  {version.name} ({'was there' if version.was_there else 'uploaded'})")
            run = start_run(
                client, version, name=name, experiment=experiment, parameters=package.parameters, cluster=cluster
            )
            where = f"the run goes on: {client.run_link(run.run_id)}"
            print(f"run       {name} in experiment {experiment}")
            print(f"link      {client.run_link(run.run_id)}", flush=True)
            if args.wait and not follow(
                client,
                run.run_id,
                package.steps,
                sys.stdout,
                namespace=client.get_user_namespace() or cluster.namespace,
                timeout_seconds=args.timeout,
                poll_seconds=POLL_SECONDS,
            ):
                raise SystemExit(1)
    except WaitTimeoutError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(4) from None
    except KeyboardInterrupt:
        print(f"interrupted: {where}", file=sys.stderr)
        raise SystemExit(130) from None


def check_cluster(recipe: "Recipe", cluster: "ClusterProfile") -> None:
    """Raises: UserError where the profile is not for Kubeflow, or its pods do not see a path of the recipe."""
    from pipelines.checks.paths import out_of_reach

    if cluster.platform != "kubeflow":
        raise UserError(
            f"profile {cluster.name} is for {cluster.platform}: compile with it, and start what that writes as "
            "docs/cluster.md says"
        )
    for name, image in cluster.images.to_dict().items():
        if image.endswith("@sha256:" + 64 * "0"):
            raise UserError(
                f"images.{name} of profile {cluster.name} is the example's: give the digest that docker push printed, "
                f"in it or by --cluster-set images.{name}=NAME@sha256:…"
            )
    if reasons := out_of_reach(recipe, cluster):
        raise UserError("; ".join(reasons))
