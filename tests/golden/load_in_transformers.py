"""Shows that a model directory loads in transformers as its author meant it.

    python load_in_transformers.py DIRECTORY [EXPECTED.json]

Every tensor must be found and none be left over.
EXPECTED.json is a list of `{"input_ids": [...], "logits": [[...], ...]}`, one row of logits for every position; the
logits that transformers computes in f32 must agree.
Where the directory has a tokenizer, it must encode and decode, its template must render a conversation, and `generate`
must stop at the tokenizer's end of sequence.
The last line is one JSON object; the exit status is 1 where something does not hold.
"""

import json
import sys
from pathlib import Path

import torch
import transformers

# f32 against f32, sums in another order, logits of size 10.
TOLERANCE = 1e-4


def main(directory, expected=None):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    faults = [f"{kind}: {sorted(map(str, keys))}" for kind, keys in info.items() if keys]
    result = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    if expected:
        result["max_difference"] = max(difference(model.eval(), case) for case in json.loads(Path(expected).read_text()))
        if not result["max_difference"] <= TOLERANCE:
            faults.append(f"logits differ by {result['max_difference']}, more than {TOLERANCE}")
    if (Path(directory) / "tokenizer.json").exists():
        faults += tokenizer_faults(directory, model)
    print(json.dumps({**result, "faults": faults}))
    return 1 if faults else 0


@torch.no_grad()
def difference(model, case):
    logits = model(torch.tensor([case["input_ids"]])).logits[0]
    return (logits - torch.tensor(case["logits"])).abs().max().item()


def tokenizer_faults(directory, model):
    faults = []
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    text = "Three hearts, naïve café."
    if tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) != text:
        faults.append("the tokenizer does not give back what it was given")
    if tokenizer.chat_template:
        rendered = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
        if "Hi" not in rendered:
            faults.append(f"the template renders {rendered!r}")
        if "{% generation" in tokenizer.chat_template or "{%- generation" in tokenizer.chat_template:
            faults.append("the template has generation markers, which other programs refuse")
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    if tokenizer.eos_token_id not in stops:
        faults.append(f"generation stops at {stops}, the tokenizer's end of sequence is {tokenizer.eos_token_id}")
    return faults


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
