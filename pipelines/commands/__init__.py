"""Commands of `python -m pipelines.matta_pipeline`, a module each: `add_parser(commands)` and `main(args)`. `run` is in
that module itself.

Nothing heavy is imported before a command runs: `--help` answers at once.
"""
