"""schedule: one recurring run per name, created or replaced; listed, paused, resumed, deleted."""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from components.common.parser import CommandParser
from matta_core.errors import UserError
from pipelines.commands.options import add_cluster_options, add_kubeflow_options, add_recipe_options

if TYPE_CHECKING:  # seconds to import
    from pipelines.kubeflow.client import Client


def add_parser(commands: "argparse._SubParsersAction[CommandParser]") -> None:
    parser = commands.add_parser(
        "schedule",
        help="start runs on a Kubeflow cluster again and again",
        description="Create or replace the recurring run of a name, and enable it. Repeating the command changes "
        "nothing, and repairs one that was cut short.",
        epilog="exit status: 0 done; 2 a mistake of yours, or Kubeflow refused; 5 Kubeflow gave no useful answer: "
        "repeat the command",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--name", help="create or replace the schedule of this name; needs --cron and --cluster")
    what.add_argument("--list", action="store_true", help="show all recurring runs in the namespace")
    what.add_argument("--pause", metavar="NAME", help="start no further runs; those under way go on")
    what.add_argument("--resume", metavar="NAME")
    what.add_argument("--delete", metavar="NAME", help="the schedule, not its runs")
    add_cluster_options(parser, required=False)
    add_recipe_options(parser)
    add_kubeflow_options(parser)
    parser.add_argument("--experiment", help="a group of runs, made where there is none (default: the recipe's name)")
    parser.add_argument("--cron", help="five fields, in UTC: '0 3 * * *' is every night at three")
    parser.add_argument("--start", metavar="TIME", help="no run before, for instance 2026-12-01T03:00 (UTC)")
    parser.add_argument("--end", metavar="TIME", help="no run after")
    parser.add_argument("--max-concurrency", type=int, default=1, metavar="N", help="runs at once, 1 to 10 (default 1)")
    parser.add_argument(
        "--catchup",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="after a pause or an outage, one run for each that was missed. Off by default: each would retrain on the "
        "same newest data",
    )
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> None:
    from pipelines.commands.kubeflow import connected
    from pipelines.kubeflow.schedule import delete, pause, resume

    if args.name is not None:
        _put(args)
        return
    with connected(args) as client:
        if args.list:
            _show(client)
            return
        for change, name, done in (
            (pause, args.pause, "paused"),
            (resume, args.resume, "resumed"),
            (delete, args.delete, "deleted"),
        ):
            if name is not None:
                change(client, name)
                print(f"{done} {name}")


def _put(args: argparse.Namespace) -> None:
    from components.common.command_line import load_recipe
    from pipelines.checks.recipe import checked
    from pipelines.cluster import load_cluster
    from pipelines.commands.kubeflow import connected
    from pipelines.commands.submit import check_cluster
    from pipelines.kubeflow.cron import six_fields
    from pipelines.kubeflow.schedule import Timing, put_schedule, read_time
    from pipelines.kubeflow.submit import experiment_id, make_package, upload

    for option in ("cron", "cluster"):
        if getattr(args, option) is None:
            raise UserError(f"--{option} is missing: `schedule --name {args.name}` needs it")
    timing = Timing(
        cron=six_fields(args.cron),
        start=read_time(args.start) if args.start else None,
        end=read_time(args.end) if args.end else None,
        max_concurrency=args.max_concurrency,
        catch_up=args.catchup,
    )
    recipe, cluster = load_recipe(args.recipe, args.set), load_cluster(args.cluster, args.cluster_set)
    check_cluster(recipe, cluster)
    with checked(args, recipe, cluster):
        pass
    with tempfile.TemporaryDirectory() as folder, connected(args, cluster.namespace) as client:
        package = make_package(args.recipe, args.set, cluster, Path(folder)).with_parameters(args.parameter)
        version = upload(client, package)
        print(f"pipeline  {version.name} ({'was there' if version.was_there else 'uploaded'})")
        schedule, outcome = put_schedule(
            client,
            args.name,
            timing,
            version,
            experiment=experiment_id(client, args.experiment or recipe.name),
            parameters=package.parameters,
            cluster=cluster,
        )
        print(f"schedule  {args.name}: {outcome}; {timing.cron} (second minute hour day month weekday, UTC)")
        print(f"link      {client.recurring_run_link(schedule.recurring_run_id)}")


def _show(client: "Client") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from pipelines.kubeflow.schedule import is_enabled, schedules

    listed = schedules(client)
    if not listed:
        print("no schedules")
        return
    table = Table()
    for column in ("name", "state", "cron", "until", "at once", "catch-up", "what"):
        table.add_column(column, overflow="fold")
    for item in listed:
        trigger = item.trigger
        cron = trigger.cron_schedule if trigger else None
        periodic = trigger.periodic_schedule if trigger else None
        when = cron.cron if cron else f"every {periodic.interval_second} s" if periodic else ""
        timing = cron or periodic
        end = timing and timing.end_time
        table.add_row(
            escape(item.display_name or ""),
            "enabled" if is_enabled(item) else "paused",
            when,
            end.isoformat() if end else "",
            str(item.max_concurrency or ""),
            "no" if item.no_catchup else "yes",
            escape((item.description or "").partition("; settings")[0]),
        )
    # Another program reads one line per schedule; without a terminal rich would wrap at 80 columns.
    Console(highlight=False, width=None if sys.stdout.isatty() else 1000).print(table)
