"""Golden trajectories of optimizers: the reference implementations on the tied-grouped fixture, with given gradients.

Each step has the same gradients for every optimizer, a function of the step and the place of a number, so that nothing
but the update is compared. Reference: `torch.optim` (AdamW, SGD, Muon), transformers' `Adafactor`, `lion-pytorch`.
"""

import lion_pytorch
import torch
from torch.optim import _muon
from transformers.optimization import Adafactor

from reference import load, numbers, provenance, write

MODEL = "tied-grouped"
STEPS = 4
LEARNING_RATE = 1e-2
WEIGHT_DECAY = 0.1

# Names of the parameters whose numbers are kept: a matrix in a block, one that is taller than wide, a bias, a norm, the
# embedding.
KEPT = [
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.0.mlp.down_proj.weight",
    "model.layers.1.self_attn.k_proj.bias",
    "model.norm.weight",
    "model.embed_tokens.weight",
]
FIRST = 12

# The Newton-Schulz iteration runs in bfloat16 there; in float32 it can be compared.
zeropower = _muon._zeropower_via_newtonschulz


def zeropower_in_float32(gradient, coefficients, steps, epsilon):
    bfloat16, torch.bfloat16 = torch.bfloat16, torch.float32
    try:
        return zeropower(gradient, coefficients, steps, epsilon)
    finally:
        torch.bfloat16 = bfloat16


_muon._zeropower_via_newtonschulz = zeropower_in_float32


def gradient(parameter, step):
    """The same numbers on both sides: sin(0.7 i + step) / (1 + i mod 5)."""
    index = torch.arange(parameter.numel(), dtype=torch.float64)
    values = torch.sin(0.7 * index + step) / (1 + index % 5)
    return values.to(torch.float32).reshape(parameter.shape)


def groups(model, choose=lambda name, parameter: True):
    """Norms and biases do not decay (transformers, `Trainer.get_decay_parameter_names`)."""
    chosen = [(name, p) for name, p in model.named_parameters() if choose(name, p)]
    still = lambda name: name.endswith("bias") or name.endswith("norm.weight")
    return [
        {"params": [p for name, p in chosen if not still(name)], "weight_decay": WEIGHT_DECAY},
        {"params": [p for name, p in chosen if still(name)], "weight_decay": 0.0},
    ]


def inside(name, parameter):
    return parameter.ndim == 2 and ".layers." in name


def optimizers(name, model):
    if name == "adamw_torch_fused":
        return [torch.optim.AdamW(groups(model), lr=LEARNING_RATE)]
    if name == "sgd":
        return [torch.optim.SGD(groups(model), lr=LEARNING_RATE, momentum=0.9)]
    if name == "sgd_dampened":
        return [torch.optim.SGD(groups(model), lr=LEARNING_RATE, momentum=0.8, dampening=0.3)]
    if name == "sgd_nesterov":
        return [torch.optim.SGD(groups(model), lr=LEARNING_RATE, momentum=0.9, nesterov=True)]
    if name == "lion_32bit":
        return [lion_pytorch.Lion(groups(model), lr=LEARNING_RATE, betas=(0.9, 0.999))]
    if name == "adafactor":
        return [Adafactor(groups(model), lr=LEARNING_RATE, scale_parameter=False, relative_step=False)]
    rest = lambda name, parameter: not inside(name, parameter)
    matrices = [g for g in groups(model, inside) if g["params"]]
    return [
        torch.optim.Muon(matrices, lr=LEARNING_RATE, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups(model, rest), lr=LEARNING_RATE),
    ]


def train(name):
    model = load(MODEL)
    chosen = optimizers(name, model)
    for step in range(STEPS):
        for parameter in model.parameters():
            parameter.grad = gradient(parameter, step)
        for optimizer in chosen:
            optimizer.step()
    parameters = dict(model.named_parameters())
    return {key: numbers(parameters[key].detach().flatten()[:FIRST]) for key in KEPT}


def main():
    names = ["adamw_torch_fused", "sgd", "sgd_dampened", "sgd_nesterov", "lion_32bit", "adafactor", "muon"]
    record = provenance(None, lion_pytorch=__import__("importlib.metadata").metadata.version("lion-pytorch"))
    settings = {"learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, "steps": STEPS, "sgd_momentum": 0.9}
    write("optimizers", {**record, "model": MODEL, **settings, "cases": {name: train(name) for name in names}})


if __name__ == "__main__":
    main()
