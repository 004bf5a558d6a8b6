"""What a model costs to serve: its size, its latency, its memory."""

from collections.abc import Iterator, Mapping

import torch

from components.evaluate.candidates import Candidate
from components.evaluate.memory import peak_memory_bytes
from components.evaluate.speed import TURNS_BYTES, latency
from matta_core.artifacts.kinds.evaluation import Costs
from matta_core.objectives import OBJECTIVE
from matta_core.pretrained import load_config, load_model, moved


def costs(
    everyone: Mapping[str, Candidate], device: torch.device, prompt_tokens: int, new_tokens: int, repeats: int
) -> Iterator[tuple[str, Costs]]:
    """The costs by model. Its bytes are those of its file."""
    memory = peak_memory_bytes(
        {name: candidate.path for name, candidate in everyone.items()}, device, prompt_tokens, new_tokens
    )
    for group in _groups(memory):
        models = {
            name: moved(load_model(everyone[name].path, OBJECTIVE.model_class, torch.float32), device).eval()
            for name in group
        }
        speeds = latency(models, prompt_tokens, new_tokens, repeats)
        for name, model in models.items():
            parameters = sum(parameter.numel() for parameter in model.parameters())
            saved = load_config(everyone[name].path).dtype or torch.float32
            assert isinstance(saved, torch.dtype), saved
            yield (
                name,
                {
                    "parameters": parameters,
                    "bytes": parameters * saved.itemsize,
                    **speeds[name],
                    "peak_memory_bytes": memory[name],
                },
            )


def _groups(memory: Mapping[str, int]) -> list[list[str]]:
    """The models in their order, in groups that are timed in turns. A group is below TURNS_BYTES, or one model."""
    groups: list[list[str]] = []
    room = 0
    for name, needed in memory.items():
        if needed > room:
            groups.append([])
            room = TURNS_BYTES
        groups[-1].append(name)
        room -= needed
    return groups
