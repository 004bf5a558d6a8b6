"""Load a model as its users do, and query it: stock transformers, no code of ours.

    HF_HUB_OFFLINE=1 python -I query.py <folder> <reference.safetensors>

The reference holds input_ids (1, n) and the logits (n, vocabulary) that the model gave for them when it was made.
`push` runs this file in a process of its own before it moves a pointer. It prints one line of JSON, {"generated",
"max_difference", "tolerance", "peak_memory_bytes", "seconds"}; the exit status is 0 only if the model loaded,
generated, and gave the recorded logits.
"""

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

# Per unit of the largest recorded logit. Other kernels and numbers of threads add up in another order, which in float32
# moves a logit by millionths of the largest. What this is to catch (a configuration that does not fit the weights,
# another library version's idea of the model) moves it by far more; damaged files are found by their checksums.
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
    """Of this process, mapped files included. Not getrusage's ru_maxrss: that remembers the parent's, before exec."""
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:  # not Linux
        return None
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
