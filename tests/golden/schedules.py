"""Golden learning rates: every schedule of transformers' `get_scheduler` that Reheat has."""

import torch
import transformers

from reference import provenance, write

LEARNING_RATE = 3e-4

# name -> (scheduler, warm-up steps, steps, kwargs)
CASES = {
    "linear": ("linear", 3, 12, {}),
    "cosine": ("cosine", 3, 12, {}),
    "cosine_two_periods": ("cosine", 0, 12, {"num_cycles": 2.0}),
    "cosine_with_restarts": ("cosine_with_restarts", 2, 12, {"num_cycles": 3}),
    "cosine_with_min_lr": ("cosine_with_min_lr", 2, 12, {"min_lr": 3e-5}),
    "cosine_with_min_lr_rate": ("cosine_with_min_lr", 2, 12, {"min_lr_rate": 0.2}),
    "polynomial": ("polynomial", 2, 12, {}),
    "polynomial_squared": ("polynomial", 0, 12, {"power": 2.0, "lr_end": 1e-5}),
    "constant": ("constant", 0, 5, {}),
    "constant_with_warmup": ("constant_with_warmup", 4, 8, {}),
    "inverse_sqrt": ("inverse_sqrt", 4, 16, {}),
    "inverse_sqrt_timescale": ("inverse_sqrt", 2, 12, {"timescale": 5}),
    "warmup_stable_decay": ("warmup_stable_decay", 3, 14, {"num_decay_steps": 5}),
    "warmup_stable_decay_shapes": (
        "warmup_stable_decay",
        4,
        16,
        {"num_decay_steps": 6, "decay_type": "1-sqrt", "warmup_type": "cosine", "min_lr_ratio": 0.1},
    ),
    "warmup_stable_decay_linear": (
        "warmup_stable_decay",
        4,
        16,
        {"num_decay_steps": 4, "num_stable_steps": 6, "decay_type": "linear", "warmup_type": "1-sqrt"},
    ),
}


def rates(name, warmup_steps, total_steps, kwargs):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LEARNING_RATE)
    scheduler = transformers.get_scheduler(name, optimizer, warmup_steps, total_steps, scheduler_specific_kwargs=kwargs)
    values = []
    for _ in range(total_steps):
        values.append(float(f"{optimizer.param_groups[0]['lr']:.15g}"))
        optimizer.step()
        scheduler.step()
    return values


def main():
    cases = {
        case: {
            "lr_scheduler_type": name,
            "warmup_steps": warmup_steps,
            "total_steps": total_steps,
            "lr_scheduler_kwargs": kwargs,
            "rates": rates(name, warmup_steps, total_steps, kwargs),
        }
        for case, (name, warmup_steps, total_steps, kwargs) in CASES.items()
    }
    write("schedules", {**provenance(None, "float64"), "learning_rate": LEARNING_RATE, "cases": cases})


if __name__ == "__main__":
    main()
