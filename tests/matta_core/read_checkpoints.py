"""Run by another transformers than ours: what it makes of checkpoints. stdin: {"folders", "texts"}; argv: the output.

No code of ours, which needs our transformers.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, __version__

asked = json.load(sys.stdin)
found = {"version": __version__, "folders": {}}
for folder in asked["folders"]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, loading = AutoModelForCausalLM.from_pretrained(folder, torch_dtype="auto", output_loading_info=True)
    input_ids = torch.tensor([asked["input_ids"]])
    with torch.no_grad():
        logits = model.eval()(input_ids).logits[0]
        written = model.generate(input_ids[:, :4], max_new_tokens=4, do_sample=False, eos_token_id=None)
    found["folders"][folder] = {
        "loading": {name: sorted(map(str, tensors)) for name, tensors in loading.items() if tensors},
        "dtype": str(model.dtype),
        "logits": logits.float().tolist(),
        "written": written[0].tolist(),
        "token_ids": [tokenizer(text)["input_ids"] for text in asked["texts"]],
        "texts": [tokenizer.decode(tokenizer(text)["input_ids"]) for text in asked["texts"]],
        "special": sorted(tokenizer.all_special_tokens),
    }
Path(sys.argv[1]).write_text(json.dumps(found))
