"""The stock configuration of a student."""

import copy

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from matta_core.errors import UserError, one_line
from matta_core.families import family_of
from matta_core.nesting.size import Granularity


def student_config(ta_config: PreTrainedConfig, granularity: Granularity) -> PreTrainedConfig:
    """The ordinary config of a student. If FFN widths differ from layer to layer, it has the widest for all.

    Raises: UserError where the stock class refuses such a shape.
    """
    config = copy.deepcopy(ta_config)
    family = family_of(config.model_type)
    config.num_hidden_layers = len(granularity.layers)
    if getattr(config, "layer_types", None):
        config.layer_types = [ta_config.layer_types[layer] for layer in granularity.layers]
    for key, number in granularity.padded.counts(0).items():
        if hasattr(config, family.word(key)):
            setattr(config, family.word(key), number)
    for key in family.features:
        if family.count(config, key) != family.count(ta_config, key):
            setattr(config, family.word(key), family.count(ta_config, key))  # else it would be computed from the heads
    try:
        return type(config).from_dict(config.to_dict(), attn_implementation=ta_config._attn_implementation)
    except (StrictDataclassError, ValueError) as error:
        raise UserError(
            f"train.sizes.{granularity.name}: {type(config).__name__} refuses its shape: {one_line(error)}"
        ) from None
