"""python -m components.prepare_data: documents to packed, fixed-length sequences, and a tokenizer."""

from components.common.command_line import load_recipe, run_command, step_parser
from components.prepare_data.step import prepare_data
from matta_core.recipe import PrepareDataConfig


def main() -> None:
    description = "Read documents, drop duplicates, split, tokenize, and pack into sequences: a TokenizedDataset."
    arguments = step_parser("prepare_data", description, PrepareDataConfig).parse_args()
    recipe = load_recipe(arguments.recipe, arguments.set)
    prepare_data(recipe.prepare_data, output=arguments.output, evaluation=recipe.evaluate)


if __name__ == "__main__":
    run_command(main)
