"""Golden values of direct preference optimisation: TRL's DPOTrainer in f32.

`losses`: the trainer's own loss on fixed log-probabilities, with the gradient in every one of them and what it logs.
`runs`: whole training runs on the `tied-grouped` fixture: the rows as trained, what was logged at each step, and the
logits that the trained model gives for a probe.
"""

import itertools
from types import SimpleNamespace

# First, since it keeps the libraries offline.
from reference import last_logits, load, numbers, provenance, train, trainer, write

import datasets
import torch
import transformers
import trl

SEED = 42
MODEL = "tied-grouped"
PROBE = [72, 105, 33, 256]
METRICS = [
    "loss", "grad_norm", "learning_rate", "entropy", "num_tokens", "logits/chosen", "logits/rejected",
    "mean_token_accuracy", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins",
    "logps/chosen", "logps/rejected", "epoch",
]
LOSS_METRICS = METRICS[3:-1]

# Lengths of prompt, chosen and rejected answer of the fixed pairs.
LENGTHS = [(2, 3, 4), (1, 5, 2), (4, 1, 1), (2, 4, 6), (3, 2, 5)]

LOSS_TYPES = [
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
]
WITH_DIVERGENCE = ["sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop"]

COMMON = dict(learning_rate=2e-3, per_device_train_batch_size=2, num_train_epochs=2, max_length=256)

# name -> (rows, settings beside COMMON)
RUNS = {
    "sigmoid": ("text", {}),
    "conversations": ("conversations", dict(beta=0.3, num_train_epochs=1)),
    "truncated": ("conversations", dict(max_length=70, num_train_epochs=1)),
    "accumulated": ("text", dict(per_device_train_batch_size=1, gradient_accumulation_steps=2)),
    "precomputed": ("text", dict(precompute_ref_log_probs=True, loss_type=["ipo"])),
    # Mixed Preference Optimization, arXiv:2411.10442.
    "mpo": ("text", dict(loss_type=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0])),
    "weighted": ("text", dict(use_weighting=True, beta=0.5)),
    "length_desensitised": ("text", dict(ld_alpha=0.5)),
    "aot": ("text", dict(loss_type=["aot"], per_device_train_batch_size=3, beta=0.5)),
    "synced_reference": (
        "text",
        dict(sync_ref_model=True, ref_model_mixup_alpha=0.6, ref_model_sync_steps=2, beta=0.5),
    ),
}

TEXT = [
    {"prompt": "ab", "chosen": " cde", "rejected": " xy"},
    {"prompt": "q", "chosen": " rs", "rejected": " tuvw"},
    {"prompt": "hello", "chosen": " world", "rejected": " w"},
    {"prompt": "one two", "chosen": " three four", "rejected": " 3"},
    {"prompt": "", "chosen": "yes", "rejected": "no no no"},
    {"prompt": "The sky is", "chosen": " blue.", "rejected": " green, or so."},
]


def conversations():
    rows = [
        ("Hi", "Hello!", "What do you want?"),
        ("2+2?", "4", "Nobody knows what two and two make, they say."),
        ("Name a colour.", "Blue is a colour that many people like.", "No."),
        ("Say a", "a", "b"),
    ]
    return [
        {
            "prompt": [{"role": "user", "content": prompt}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }
        for prompt, chosen, rejected in rows
    ]


def main():
    runs = {}
    for name, (rows, changes) in RUNS.items():
        settings = {**COMMON, **changes}
        runs[name] = {"settings": settings, **run(rows, settings)}
    record = provenance(SEED, trl=trl.__version__, datasets=datasets.__version__)
    write(
        "dpo",
        {
            **record,
            "model": MODEL,
            "probe_ids": PROBE,
            "metrics": METRICS,
            "loss_metrics": LOSS_METRICS,
            "losses": losses(),
            "runs": runs,
        },
    )


def dpo_trainer(rows, settings):
    transformers.set_seed(SEED)
    rows = TEXT if rows == "text" else conversations()
    return trainer(trl.DPOTrainer, trl.DPOConfig, load(MODEL), rows, SEED, settings)


def run(rows, settings):
    with dpo_trainer(rows, settings) as dpo:
        pairs = [[row[key] for key in ("prompt_ids", "chosen_ids", "rejected_ids")] for row in dpo.train_dataset]
        steps = train(dpo, METRICS)
    return {"pairs": pairs, "steps": steps, "probe_logits": last_logits(dpo.model, PROBE)}


def losses():
    """The trainer's loss on fixed tensors, for every loss type and option."""
    tensors = fixed_tensors()
    cases = []
    for loss_type in LOSS_TYPES:
        smoothings = [0.1] if loss_type == "exo_pair" else [0.0, 0.2]
        for beta, smoothing in itertools.product([0.1, 0.7], smoothings):
            cases.append(dict(loss_type=[loss_type], beta=beta, label_smoothing=smoothing))
        if loss_type in WITH_DIVERGENCE:
            smoothing = 0.1 if loss_type in ("exo_pair", "robust") else 0.0
            for divergence in ("forward_kl", "js_divergence", "alpha_divergence"):
                cases.append(
                    dict(loss_type=[loss_type], beta=0.3, label_smoothing=smoothing, f_divergence_type=divergence)
                )
    for alpha in (0.0, 1.0, 1.5):
        cases.append(
            dict(loss_type=["sigmoid"], f_divergence_type="alpha_divergence", f_alpha_divergence_coef=alpha)
        )
    for loss_type in ("sigmoid", "ipo", "bco_pair", "sft"):
        cases.append(dict(loss_type=[loss_type], beta=0.3, ld_alpha=0.4))
    # Not with hinge or sft, whose tensors TRL 1.16 cannot multiply in place.
    for loss_type in ("sigmoid", "ipo", "apo_zero"):
        cases.append(dict(loss_type=[loss_type], beta=0.3, use_weighting=True))
    cases.append(dict(loss_type=["discopop"], discopop_tau=0.2))
    cases.append(dict(loss_type=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0]))
    cases.append(dict(loss_type=["sigmoid", "nca_pair"], use_weighting=True, loss_weights=[0.5, 2.0], ld_alpha=0.7))
    with dpo_trainer("text", {}) as dpo:
        results = [{"settings": case, **loss(dpo, tensors, case)} for case in cases]
    keys = ("logprobs", "log_sum_sq_probs", "entropy", "mean_logit", "is_top1", "ref_chosen", "ref_rejected")
    return {"lengths": LENGTHS, **{key: tensors[key] for key in keys}, "cases": results}


def fixed_tensors():
    """One list of numbers per answer, the better ones first; the answers' tokens alone."""
    generator = torch.Generator().manual_seed(SEED)

    def ragged(scale, shift=0.0):
        lengths = [chosen for _, chosen, _ in LENGTHS] + [rejected for _, _, rejected in LENGTHS]
        return [numbers(shift - scale * torch.rand(length, generator=generator)) for length in lengths]

    logprobs = ragged(3.0)
    noise = ragged(-0.5)
    # The expected log-probability is at most the largest.
    squares = [[min(-0.01, value / 2 - extra) for value, extra in zip(*row)] for row in zip(logprobs, noise)]
    is_top1 = [[int(value > -1.0) for value in row] for row in logprobs]
    pairs = len(LENGTHS)
    reference = [sum(row) for row in logprobs]
    shifts = (torch.rand(2 * pairs, generator=generator) * 2 - 1).tolist()
    reference = [float(f"{value + shift:.6g}") for value, shift in zip(reference, shifts)]
    return {
        "logprobs": logprobs,
        "log_sum_sq_probs": squares,
        "entropy": ragged(-2.0),
        "mean_logit": ragged(2.0, 1.0),
        "is_top1": is_top1,
        "ref_chosen": reference[:pairs],
        "ref_rejected": reference[pairs:],
    }


def loss(dpo, tensors, case):
    """Loss, gradient and metrics of one case; the model is replaced by its outputs."""
    fields = trl.DPOConfig.__dataclass_fields__
    setting = lambda key: case.get(key, fields[key].default)
    dpo.beta, dpo.loss_types = setting("beta"), case["loss_type"]
    dpo.loss_weights = setting("loss_weights") or [1.0] * len(dpo.loss_types)
    dpo.ld_alpha, dpo.label_smoothing = setting("ld_alpha"), setting("label_smoothing")
    dpo.f_divergence_type = setting("f_divergence_type")
    dpo.f_alpha_divergence_coef = setting("f_alpha_divergence_coef")
    dpo.use_weighting, dpo.args.discopop_tau = setting("use_weighting"), setting("discopop_tau")
    dpo.precompute_ref_logps = True
    dpo._total_train_tokens = 0
    dpo._metrics["train"].clear()
    dpo.model.train()

    prompts = [prompt for prompt, _, _ in LENGTHS] * 2
    answers = [chosen for _, chosen, _ in LENGTHS] + [rejected for _, _, rejected in LENGTHS]
    width = max(prompt + answer for prompt, answer in zip(prompts, answers))
    padded = lambda: torch.zeros(len(prompts), width)
    attention_mask, completion_mask = padded().long(), padded().long()
    for row, (prompt, answer) in enumerate(zip(prompts, answers)):
        attention_mask[row, : prompt + answer] = 1
        completion_mask[row, prompt : prompt + answer] = 1

    def shifted(name):
        """Outputs stand where their token is predicted, one position earlier."""
        values = torch.zeros(len(prompts), width - 1)
        for row, (prompt, answer) in enumerate(zip(prompts, answers)):
            values[row, prompt - 1 : prompt - 1 + answer] = torch.tensor(tensors[name][row], dtype=torch.float32)
        return values

    logprobs = shifted("logprobs").requires_grad_()
    outputs = SimpleNamespace(
        log_probs=logprobs,
        log_sum_sq_probs=shifted("log_sum_sq_probs"),
        entropy=shifted("entropy"),
        mean_logits=shifted("mean_logit"),
        is_top1=shifted("is_top1").bool(),
    )
    inputs = {
        "input_ids": padded().long(),
        "attention_mask": attention_mask,
        "completion_mask": completion_mask,
        "ref_chosen_logps": torch.tensor(tensors["ref_chosen"]),
        "ref_rejected_logps": torch.tensor(tensors["ref_rejected"]),
    }
    value = dpo._compute_loss(lambda **_: outputs, inputs, return_outputs=False)
    value.backward()
    gradient = [
        numbers(logprobs.grad[row, prompt - 1 : prompt - 1 + answer])
        for row, (prompt, answer) in enumerate(zip(prompts, answers))
    ]
    metrics = [float(f"{dpo._metrics['train'][key][0]:.9g}") for key in LOSS_METRICS]
    return {"loss": numbers(value.detach()), "gradient": gradient, "metrics": metrics}


if __name__ == "__main__":
    main()
