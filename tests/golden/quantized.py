"""Golden values of 4-bit weights: what bitsandbytes makes of a small matrix and gives back.

Needs `bitsandbytes` 0.50.2 beside requirements.txt; its CPU backend will do. `cargo xtask golden` does not run this
script, as it is the only one that needs it.
"""

import bitsandbytes
import torch
from bitsandbytes import functional

from reference import numbers, provenance, write

SEED = 3

# Rows that are whole blocks of 64, rows that are not, an odd number of values, and more than 256 blocks.
SHAPES = [(4, 128), (6, 50), (3, 17), (150, 128)]


def main():
    torch.manual_seed(SEED)
    cases = []
    for shape in SHAPES:
        # Multiples of 1/512 have few digits, and are the same numbers in every type.
        weight = (torch.randn(shape) * torch.rand(shape[0], 1) * 512).round() / 512
        for kind in ("nf4", "fp4"):
            for nested in (False, True):
                codes, state = functional.quantize_4bit(
                    weight, blocksize=64, compress_statistics=nested, quant_type=kind
                )
                values = functional.dequantize_4bit(codes, state)
                # A few of the large matrix are enough.
                kept = values.flatten() if weight.numel() < 1000 else values.flatten()[::101]
                cases.append({"kind": kind, "nested": nested, "shape": list(shape), "values": numbers(kept)})
        cases[-1]["weight"] = (weight * 512).int().tolist()
    write("quantized", {**provenance(SEED, bitsandbytes=bitsandbytes.__version__), "stride": 101, "cases": cases})


if __name__ == "__main__":
    main()
