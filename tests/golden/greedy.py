"""Golden values of greedy generation: `generate(do_sample=False)` of transformers in f32, one prompt at a time.

`margin` is the smallest difference between the best and the second-best logit met on the way.
A case whose margin is too small to survive another order of summation is refused: draw other prompts then.
"""

import torch

from reference import fixture_names, load, numbers, provenance, write

SEED = 9
PROMPT_LENGTHS = [1, 3, 9, 30]
MAX_NEW_TOKENS = 32

# f32 sums in another order move a logit of this size by about 1e-5.
MIN_MARGIN = 1e-3


def main():
    torch.manual_seed(SEED)
    models = {}
    for name in fixture_names():
        model = load(name)
        models[name] = [case(name, model, length) for length in PROMPT_LENGTHS]
    write("greedy", {**provenance(SEED), "max_new_tokens": MAX_NEW_TOKENS, "models": models})


@torch.no_grad()
def case(name, model, length):
    prompt = torch.randint(0, model.config.vocab_size, (length,))
    output = model.generate(
        prompt[None],
        attention_mask=torch.ones(1, length, dtype=torch.long),
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
        return_dict_in_generate=True,
        output_logits=True,
        pad_token_id=0,
    )
    best = torch.stack([step[0].topk(2).values for step in output.logits])
    margin = (best[:, 0] - best[:, 1]).min().item()
    if margin < MIN_MARGIN:
        raise SystemExit(f"{name}, prompt of {length}: margin {margin} is below {MIN_MARGIN}; take another seed")
    generated = output.sequences[0, length:].tolist()
    eos = model.config.eos_token_id
    eos = eos if isinstance(eos, list) else [eos]
    return {
        "prompt_ids": prompt.tolist(),
        "generated_ids": generated,
        "finish_reason": "eos" if generated[-1] in eos else "length",
        "margin": numbers(margin),
    }


if __name__ == "__main__":
    main()
