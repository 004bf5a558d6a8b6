"""Load a model of the next-token objective as its users do, and query it: stock transformers, no code of ours.

    HF_HUB_OFFLINE=1 python -I next_token_query.py <folder> <reference.safetensors>

The reference holds input_ids (1, n) and the logits (n, vocabulary) that the model gave for them when it was made. It
prints one line of JSON, {"generated", "max_difference", "tolerance", "peak_memory_bytes", "seconds"}; the exit status
is 0 only if the model loaded, generated, and gave the recorded logits.

Without arguments it answers requests, as `push` makes them before it moves a pointer: see `serve`.
"""

import atexit
import gc
import json
import os
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,  # noqa: F401 - what every fork would import
)

# At its end the process need not look for cycles among the objects of torch and transformers: that takes seconds.
atexit.register(gc.freeze)

# Relative to the largest recorded logit. Other kernels and numbers of threads add up in another order, which in float32
# moves a logit by millionths of the largest. A configuration that does not fit the weights, or a library version that
# computes the model differently, moves it by far more. Checksums find damaged files.
TOLERANCE = 1e-3
NEW_TOKENS = 4


def main(folder: str, reference: str) -> None:
    started = time.monotonic()
    recorded = load_file(reference)
    expected = recorded["logits"]
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False).eval()
    with torch.no_grad():
        logits = model(input_ids=recorded["input_ids"]).logits[0].float()
        if logits.shape != expected.shape:
            sys.exit(f"expected logits of shape {tuple(expected.shape)}, got {tuple(logits.shape)}")
        if not logits.isfinite().all():
            sys.exit("the logits are not all finite numbers")
        tolerance = TOLERANCE * max(1.0, expected.abs().max().item())
        difference = (logits - expected).abs()
        if difference.max() > tolerance:
            position, token = divmod(difference.argmax().item(), expected.shape[1])
            sys.exit(
                f"expected the recorded logit {expected[position, token]:.6g} of token {token} at position {position}, "
                f"got {logits[position, token]:.6g}: more than {tolerance:.2g} apart"
            )
        length = recorded["input_ids"].shape[1]
        prompt = recorded["input_ids"][:, : (length + 1) // 2]
        new_tokens = min(NEW_TOKENS, length - prompt.shape[1])
        output = model.generate(prompt, max_new_tokens=new_tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    generated = tokenizer.decode(output[0])
    if max(tokenizer(generated)["input_ids"], default=0) >= logits.shape[1]:
        sys.exit(f"the tokenizer gives token ids above the vocabulary of {logits.shape[1]} for {generated!r}")
    report = {
        "generated": generated,
        "max_difference": difference.max().item(),
        "tolerance": tolerance,
        "peak_memory_bytes": peak_memory_bytes(),
        "seconds": round(time.monotonic() - started, 3),
    }
    print(json.dumps(report))


def peak_memory_bytes() -> int | None:
    """The peak memory of this process, mapped files included. getrusage's ru_maxrss would remember the parent's."""
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:  # not Linux
        return None
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def serve() -> None:
    """Answer requests, each in a fresh child. This process loads the libraries once, computes nothing, and forks a
    child per request.

    A request is a line of JSON on stdin, [folder, reference, stdout, stderr]; the last two are files for the child.
    The answer is two lines: the child's process id and, when it has ended, its exit status.
    """
    for line in sys.stdin:
        folder, reference, *files = json.loads(line)
        child = os.fork()
        if child == 0:
            for stream, file in enumerate(files, start=1):
                os.dup2(os.open(file, os.O_WRONLY), stream)
            main(folder, reference)
            return
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:]) if sys.argv[1:] else serve()
