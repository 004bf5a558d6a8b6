"""Options that several commands share."""

import argparse

from components.common.command_line import DEFAULT_RECIPE, path_option
from components.common.interpreter import python


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """--recipe and --set, read by `components.common.command_line.load_recipe`."""
    parser.add_argument("--recipe", type=path_option, default=DEFAULT_RECIPE, help="a YAML file (default: the demo's)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"override one setting, for instance train.steps=100; `{python()} -m components.STEP --help` lists them",
    )


def add_cluster_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """--cluster and --cluster-set, read by `pipelines.cluster.load_cluster`."""
    parser.add_argument(
        "--cluster", type=path_option, required=required, help="a profile, for instance pipelines/clusters/one_gpu.yaml"
    )
    parser.add_argument(
        "--cluster-set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one setting of the profile, for instance images.data=NAME@sha256:…",
    )


def add_kubeflow_options(parser: argparse.ArgumentParser) -> None:
    """Where Kubeflow is and how to be let in, read by `pipelines.commands.kubeflow.connected`."""
    parser.add_argument(
        "--host", help="address of Kubeflow Pipelines (default: KF_PIPELINES_ENDPOINT; in a pod, the cluster's own)"
    )
    parser.add_argument("--namespace", help="where Kubeflow serves several users (default: the profile's)")
    parser.add_argument("--token-file", type=path_option, help="holds a bearer token; read anew for each request")
    parser.add_argument(
        "--ca-cert",
        type=path_option,
        help="PEM file of the authorities to trust instead of the public ones; TLS is verified",
    )
    parser.add_argument(
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the pipeline that is no setting of the recipe: scheduled_time=[[ScheduledTime]] where "
        "Kubeflow fills that in",
    )
    parser.add_argument("--ui-host", help="address of the web pages, for links, where it is not --host's")
