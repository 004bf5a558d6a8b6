"""compile: write the pipeline as a package that Kubeflow and Vertex AI take, or as Kubernetes resources."""

import argparse
import sys
from pathlib import Path

from components.common.command_line import load_recipe, path_option
from components.common.parser import CommandParser
from matta_core.errors import UserError
from pipelines.commands.options import add_cluster_options, add_recipe_options


def add_parser(commands: "argparse._SubParsersAction[CommandParser]") -> None:
    parser = commands.add_parser("compile", help="write the pipeline as IR YAML, to be uploaded to Kubeflow")
    parser.add_argument("--output", type=path_option, default=Path("matta_pipeline.yaml"), help="a .yaml file")
    add_cluster_options(parser, required=False)
    parser.add_argument(
        "--kubernetes-manifest",
        action="store_true",
        help="write a Pipeline and a PipelineVersion, to be applied by GitOps, in place of IR YAML",
    )
    add_recipe_options(parser)
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> None:
    from pipelines.checks.recipe import checked
    from pipelines.cluster import load_cluster

    recipe = load_recipe(args.recipe, args.set)
    if args.cluster is None and args.cluster_set:
        raise UserError(f"--cluster-set {args.cluster_set[0]} needs the profile that it changes: give --cluster")
    cluster = load_cluster(args.cluster, args.cluster_set) if args.cluster else None
    with checked(args, recipe, cluster):  # meanwhile kfp is imported, which takes as long
        from pipelines.checks.paths import out_of_reach
        from pipelines.kubeflow.compile import compile_pipeline
    compile_pipeline(recipe, cluster, args.output, kubernetes_manifest=args.kubernetes_manifest)
    for reason in out_of_reach(recipe, cluster) if cluster else ():
        print(f"warning: {reason}", file=sys.stderr)
    print(f"wrote {args.output}")
