"""Golden values of AdamW with moments in 8 bits: quantisation by bitsandbytes' dynamic maps around the update in f32.

bitsandbytes has the step for GPUs alone, and on CPUs looks codes up in a coarser table than the paper's nearest ones
(Dettmers et al. 2022, arXiv:2110.02861, section 2.1): so the maps are its own, and codes are found by their definition.
Needs `bitsandbytes` 0.50.2 beside requirements.txt; `cargo xtask golden` does not run this script, as with `quantized.py`.
"""

import math

import bitsandbytes
import torch
from bitsandbytes import functional

from reference import numbers, provenance, write

SEED = 11
# Two whole blocks of 256 and a part of one.
COUNT = 700
STEPS = 4
BLOCK = 256
LEARNING_RATE, BETA1, BETA2, EPSILON, WEIGHT_DECAY = 1e-2, 0.9, 0.995, 1e-8, 0.1


def quantize(moment, code):
    """The nearest codes under the largest magnitude of each block, and those magnitudes."""
    blocks = moment.split(BLOCK)
    absmax = torch.stack([block.abs().max() for block in blocks])
    scaled = torch.cat([block / (scale if scale > 0 else 1) for block, scale in zip(blocks, absmax)])
    return (scaled[:, None] - code[None]).abs().argmin(1), absmax


def dequantize(codes, absmax, code):
    return code[codes] * absmax.repeat_interleave(BLOCK)[: len(codes)]


def main():
    torch.manual_seed(SEED)
    maps = [functional.create_dynamic_map(signed=signed) for signed in (True, False)]
    value = (torch.randn(COUNT) * 512).round() / 512
    start = value.clone()
    # Magnitudes over many powers of ten, as gradients have them; multiples of powers of two have few digits.
    gradients = [
        (torch.randn(COUNT) * 256).round() / 256 * 2.0 ** torch.randint(-14, 1, (COUNT,)) for _ in range(STEPS)
    ]
    states = [quantize(torch.zeros(COUNT), code) for code in maps]
    steps = []
    for step, gradient in enumerate(gradients, start=1):
        first, second = (dequantize(*state, code) for state, code in zip(states, maps))
        first = first * BETA1 + gradient * (1 - BETA1)
        second = second * BETA2 + gradient * gradient * (1 - BETA2)
        value = value * (1 - LEARNING_RATE * WEIGHT_DECAY)
        denominator = second.sqrt() / math.sqrt(1 - BETA2**step) + EPSILON
        value = value - LEARNING_RATE / (1 - BETA1**step) * first / denominator
        states = [quantize(moment, code) for moment, code in zip((first, second), maps)]
        steps.append(
            {
                "value": numbers(value),
                "codes": [codes.tolist() for codes, _ in states],
                "absmax": [numbers(absmax) for _, absmax in states],
            }
        )
    write(
        "eight_bit",
        {
            **provenance(SEED, bitsandbytes=bitsandbytes.__version__),
            "settings": [LEARNING_RATE, BETA1, BETA2, EPSILON, WEIGHT_DECAY],
            "maps": [numbers(code) for code in maps],
            "start": numbers(start),
            "gradients": [numbers(gradient) for gradient in gradients],
            "steps": steps,
        },
    )


if __name__ == "__main__":
    main()
