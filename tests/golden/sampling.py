"""Golden values of sampling: the distributions that transformers draws from, and greedy generation in a batch.

`processors` holds, for random logits and a text so far, the probabilities after the processors that `generate` would
build for each set of options, in the order in which it would apply them. Tokens that cannot be drawn are left out.
`batches` holds `generate(do_sample=False)` on prompts of unequal lengths, padded on the left, in f32.
"""

import torch
from transformers import GenerationConfig, LogitsProcessorList

from reference import fixture_names, load, numbers, provenance, write

SEED = 31
VOCABULARY = 96
MODEL = "untied-sharded"

OPTIONS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.6},
    {"top_k": 5},
    {"top_k": 200},
    {"top_p": 0.9},
    {"top_p": 0.3},
    {"min_p": 0.1},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
    {"min_new_tokens": 4},
    {"sequence_bias": [[[5], 2.5], [[11], -4.0]]},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.8},
    {"temperature": 1.4, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.2},
    {"temperature": 0.5, "top_k": 3, "min_p": 0.5, "sequence_bias": [[[7], 3.0]], "min_new_tokens": 9},
]

PROMPT_LENGTHS = [1, 4, 13, 29]
MAX_NEW_TOKENS = 24
# As in `greedy.py`: a choice that hangs on less would not survive another order of summation.
MIN_MARGIN = 1e-3


def main():
    torch.manual_seed(SEED)
    model = load(MODEL)
    processors = [distribution(model, options) for options in OPTIONS for _ in range(2)]
    batches = {name: batch(name) for name in fixture_names()}
    write("sampling", {**provenance(SEED), "model": MODEL, "processors": processors, "batches": batches})


@torch.no_grad()
def distribution(model, options):
    prompt = torch.randint(0, VOCABULARY, (6,))
    generated = torch.randint(0, VOCABULARY, (3,))
    logits = 3 * torch.randn(VOCABULARY)
    config = GenerationConfig(do_sample=True, top_k=0, eos_token_id=[95, 40], pad_token_id=0, max_new_tokens=20)
    config.update(**{"temperature": 1.0, "top_p": 1.0, **options})
    model._prepare_special_tokens(config, device="cpu")
    chain = model._get_logits_processor(
        generation_config=config,
        input_ids_seq_length=len(prompt),
        encoder_input_ids=prompt[None],
        prefix_allowed_tokens_fn=None,
        logits_processor=LogitsProcessorList(),
        device="cpu",
        model_kwargs={},
    )
    scores = chain(torch.cat([prompt, generated])[None], logits[None].clone())
    probabilities = scores.softmax(-1)[0]
    kept = (probabilities > 0).nonzero().flatten()
    return {
        "options": options,
        "eos_token_ids": [95, 40],
        "prompt_ids": prompt.tolist(),
        "generated_ids": generated.tolist(),
        "logits": numbers(logits),
        "ids": kept.tolist(),
        "probabilities": numbers(probabilities[kept]),
    }


@torch.no_grad()
def batch(name):
    model = load(name)
    vocabulary = model.config.vocab_size
    prompts = [torch.randint(1, vocabulary, (length,)).tolist() for length in PROMPT_LENGTHS]
    longest = max(PROMPT_LENGTHS)
    padded = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    output = model.generate(
        padded,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
        return_dict_in_generate=True,
        output_logits=True,
        pad_token_id=0,
    )
    eos = model.config.eos_token_id
    eos = eos if isinstance(eos, list) else [eos]
    rows = []
    for row, prompt in enumerate(prompts):
        generated = output.sequences[row, longest:].tolist()
        end = next((index + 1 for index, token in enumerate(generated) if token in eos), len(generated))
        best = torch.stack([step[row].topk(2).values for step in output.logits[:end]])
        margin = (best[:, 0] - best[:, 1]).min().item()
        if margin < MIN_MARGIN:
            raise SystemExit(f"{name}, row {row}: margin {margin} is below {MIN_MARGIN}; take another seed")
        rows.append({"prompt_ids": prompt, "generated_ids": generated[:end]})
    return {"max_new_tokens": MAX_NEW_TOKENS, "rows": rows}


if __name__ == "__main__":
    main()
