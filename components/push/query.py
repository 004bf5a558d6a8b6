"""Load a model as its users do, and query it: stock transformers, no code of ours.

    HF_HUB_OFFLINE=1 python query.py <path>

`push` runs this file in a process of its own before it moves a pointer. It prints what was generated; the exit
status is 0 only if the model loaded and its logits are finite numbers.
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = "import os"


def main(path: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path)
    prompt = tokenizer(PROMPT, return_tensors="pt")
    with torch.no_grad():
        if not model(**prompt).logits.isfinite().all():
            sys.exit(f"the logits for {PROMPT!r} are not all finite numbers")
        output = model.generate(**prompt, max_new_tokens=4, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    print(repr(tokenizer.decode(output[0])))


if __name__ == "__main__":
    main(sys.argv[1])
