"""MatTA's pipeline: compile it for Kubeflow, run it on this machine, or start and schedule it on a cluster.

python -m pipelines.matta_pipeline compile --recipe pipelines/recipes/demo.yaml --output matta_pipeline.yaml
python -m pipelines.matta_pipeline run     --recipe pipelines/recipes/demo.yaml
python -m pipelines.matta_pipeline submit   --recipe my.yaml --cluster my_cluster.yaml --host https://… --wait
python -m pipelines.matta_pipeline schedule --recipe my.yaml --cluster my_cluster.yaml --host https://… \
    --name nightly --cron '0 3 * * *'
"""

from components.common.command_line import run_command
from components.common.parser import CommandParser
from pipelines.commands import compile, run, schedule, submit  # noqa: A004 - the commands' names


def main() -> None:
    parser = CommandParser(
        prog="python -m pipelines.matta_pipeline",
        description="Retrain a model with MatTA: run it on this machine or on a Kubeflow cluster.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (compile, run, submit, schedule):
        command.add_parser(commands)
    args = parser.parse_args()
    args.main(args)


if __name__ == "__main__":
    run_command(main)
