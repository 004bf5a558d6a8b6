"""How much memory a model needs to answer."""

import json
import os
import resource
import subprocess
import sys
import traceback
from collections.abc import Mapping

import torch
import transformers

from components.evaluate.speed import BATCH_SIZES, generate
from matta_core.errors import UserError
from matta_core.objectives import OBJECTIVE
from matta_core.pretrained import load_model, moved


def peak_memory_bytes(
    models: Mapping[str, str], device: torch.device, prompt_tokens: int, new_tokens: int
) -> dict[str, int]:
    """The peak memory of each model, in bytes: it is loaded in fp32 and answers the largest batch that `speed` times.

    On a GPU this is what the allocator gave out. On the CPU it is how much the resident memory of a fresh process
    grows. One process loads torch, which takes seconds, and forks a child for every model. What Python and torch need
    is not counted. Loading is counted, as a server that cannot load a model cannot serve it.

    `models` maps names to folders or hub names. Raises: UserError where a child dies.
    """
    if device.type == "cuda":
        return {name: _on_gpu(path, device, prompt_tokens, new_tokens) for name, path in models.items()}
    result = subprocess.run(
        [sys.executable, "-m", "components.evaluate.memory"],
        input=json.dumps([models, prompt_tokens, new_tokens]),
        capture_output=True,
        text=True,
    )
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or [f"status {result.returncode}"])[-1]
        raise UserError(f"cannot measure the models' memory: {reason}. Give the step more memory")
    return json.loads(result.stdout)


def _on_gpu(path: str, device: torch.device, prompt_tokens: int, new_tokens: int) -> int:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    _answer(path, device, prompt_tokens, new_tokens)
    return torch.cuda.max_memory_allocated(device) - before


def _answer(path: str, device: torch.device, prompt_tokens: int, new_tokens: int) -> None:
    model = moved(load_model(path, OBJECTIVE.model_class, torch.float32), device).eval()
    generate(model, max(BATCH_SIZES), prompt_tokens, new_tokens)


def _serve() -> None:
    """Run the fresh process: models on stdin, their peaks on stdout. It computes nothing itself, so it can fork."""
    from transformers import PreTrainedModel  # noqa: F401 - every child would import it

    models, prompt_tokens, new_tokens = json.load(sys.stdin)
    transformers.logging.set_verbosity_error()
    peaks = {}
    for name, path in models.items():
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                before = _peak_rss()
                _answer(path, torch.device("cpu"), prompt_tokens, new_tokens)
                os.write(writer, str(_peak_rss() - before).encode())
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)  # the child must not close what the parent has open
        os.close(writer)
        with os.fdopen(reader) as answer:
            peak = answer.read()
        _, status = os.waitpid(child, 0)
        if not peak:
            raise SystemExit(f"the process of {name} ended with status {os.waitstatus_to_exitcode(status)}")
        peaks[name] = int(peak)
    json.dump(peaks, sys.stdout)


def _peak_rss() -> int:
    """The peak in bytes. A fresh fork starts with its resident memory; from then on the peak only grows."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    _serve()
