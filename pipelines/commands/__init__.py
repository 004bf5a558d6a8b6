"""Commands of `python -m pipelines.matta_pipeline`, one module each: `add_parser(commands)` and `main(args)`. `run`, for
this machine, stands in that module itself.

Nothing heavy is imported before a command runs: `--help` answers at once.
"""
