"""One side of `cargo xtask bench generate`: greedy `generate` of transformers with its static-shape defaults.

Prompts are rows of `input_ids` of one length. Prints one JSON object: tokens per second of prefill and of decoding, and
the versions. Memory is measured by the program that starts this one.
"""

import argparse
import json
import time

import torch
import transformers


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], required=True)
    parser.add_argument("--max-new-tokens", type=int, required=True)
    args = parser.parse_args()

    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.model, dtype=getattr(torch, args.dtype), attn_implementation="sdpa"
    ).eval()
    with open(args.prompts) as file:
        prompts = torch.tensor([json.loads(line)["input_ids"] for line in file])
    mask = torch.ones_like(prompts)

    def seconds(new_tokens):
        start = time.perf_counter()
        model.generate(
            prompts,
            attention_mask=mask,
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            pad_token_id=0,
        )
        return time.perf_counter() - start

    seconds(2)
    first = min(seconds(1) for _ in range(2))
    whole = seconds(args.max_new_tokens)
    rows, length = prompts.shape
    print(
        json.dumps(
            {
                "prefill_tokens_per_second": rows * length / first,
                "decode_tokens_per_second": rows * (args.max_new_tokens - 1) / (whole - first),
                "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            }
        )
    )


if __name__ == "__main__":
    main()
