"""Shows that adapter directories load in PEFT as their author meant them.

    python load_in_peft.py BASE CASES.json

CASES.json is a list of `{"adapter": DIRECTORY, "input_ids": [...], "logits": [[...], ...]}`, one row of logits for every
position; the logits that PEFT computes in f32 must agree, and no tensor may be missing or left over.
The last line is one JSON object; the exit status is 1 where something does not hold.
"""

import json
import sys
import warnings
from pathlib import Path

import peft
import torch
import transformers

# f32 against f32, sums in another order, logits of size 10.
TOLERANCE = 1e-4


def main(base, cases):
    results = [check(base, case) for case in json.loads(Path(cases).read_text())]
    faults = [fault for _, found in results for fault in found]
    print(json.dumps({"max_difference": max(difference for difference, _ in results), "faults": faults}))
    return 1 if faults else 0


def check(base, case):
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(model, case["adapter"]).eval()
    faults = [str(warning.message) for warning in caught if "adapter keys" in str(warning.message)]
    with torch.no_grad():
        logits = model(torch.tensor([case["input_ids"]])).logits[0]
    difference = (logits - torch.tensor(case["logits"])).abs().max().item()
    if not difference <= TOLERANCE:
        faults.append(f"{case['adapter']}: logits differ by {difference}, more than {TOLERANCE}")
    return difference, faults


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
