"""Golden values of the forward pass: logits of every tiny model, computed by transformers in f32.

`logits` are complete for the short sequence; for the longer ones they are the last position's.
`logsumexp` and `argmax` are given for every position.
"""

import torch

from reference import fixture_names, load, numbers, provenance, write

SEED = 1
LENGTHS = [1, 7, 40]


def main():
    torch.manual_seed(SEED)
    models = {}
    for name in fixture_names():
        model = load(name)
        models[name] = [case(model, length) for length in LENGTHS]
    write("forward", {**provenance(SEED), "models": models})


@torch.no_grad()
def case(model, length):
    input_ids = torch.randint(0, model.config.vocab_size, (length,))
    logits = model(input_ids[None]).logits[0]
    kept = logits if length <= 7 else logits[-1:]
    return {
        "input_ids": input_ids.tolist(),
        "logits": numbers(kept),
        "logsumexp": numbers(logits.logsumexp(-1)),
        "argmax": logits.argmax(-1).tolist(),
    }


if __name__ == "__main__":
    main()
