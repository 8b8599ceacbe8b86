"""Golden trajectories of supervised fine-tuning: TRL's SFTTrainer in f32 on the `tied-grouped` fixture.

Every case holds what was set, the rows as they were trained on, what TRL logged at each optimizer step, and the logits
that the trained model gives for a probe.
"""

import json

# First, since it keeps the libraries offline.
from reference import FIXTURES, last_logits, load, provenance, train, trainer, write

import datasets
import torch
import transformers
import trl

SEED = 42
MODEL = "tied-grouped"
PROBE = [72, 105, 33, 256]
METRICS = ["loss", "grad_norm", "learning_rate", "entropy", "mean_token_accuracy", "num_tokens", "epoch"]

COMMON = dict(
    learning_rate=5e-3,
    lr_scheduler_type="linear",
    per_device_train_batch_size=2,
    gradient_accumulation_steps=1,
    num_train_epochs=2,
    max_length=256,
)

# name -> (rows, settings beside COMMON)
CASES = {
    # Only what the assistant wrote is trained; the last batch of an epoch is smaller.
    "conversations_assistant_only": ("conversations", dict(assistant_only_loss=True)),
    # Every token is trained; rows are cut at `max_length`.
    "conversations_truncated": ("conversations", dict(max_length=64, num_train_epochs=1)),
    # Micro-batches of unequal length, where a mean of means would be wrong.
    "accumulated": (
        "tokens",
        dict(
            per_device_train_batch_size=1,
            gradient_accumulation_steps=4,
            lr_scheduler_type="cosine",
            warmup_steps=2,
            weight_decay=0.1,
            max_grad_norm=0.5,
        ),
    ),
    # The same rows in larger micro-batches: the same losses, other entropies in TRL.
    "accumulated_wide": (
        "tokens",
        dict(
            per_device_train_batch_size=4,
            lr_scheduler_type="cosine",
            warmup_steps=2,
            weight_decay=0.1,
            max_grad_norm=0.5,
        ),
    ),
    "constant_with_warmup": (
        "tokens",
        dict(lr_scheduler_type="constant_with_warmup", warmup_steps=3, num_train_epochs=1, adam_beta2=0.95),
    ),
    # A share of every label is spread over the vocabulary.
    "label_smoothing": ("tokens", dict(label_smoothing_factor=0.2, gradient_accumulation_steps=2)),
    # Rows of at most 32 tokens, block-diagonal attention.
    "packed": ("tokens", dict(packing=True, packing_strategy="bfd", max_length=32, per_device_train_batch_size=1)),
}


def main():
    cases = {}
    for name, (rows, changes) in CASES.items():
        settings = {**COMMON, **changes}
        cases[name] = {"rows": rows, "settings": settings, **run(rows, settings)}
    record = provenance(SEED, trl=trl.__version__, datasets=datasets.__version__)
    write("sft", {**record, "model": MODEL, "probe_ids": PROBE, "metrics": METRICS, "cases": cases})


def run(rows, settings):
    transformers.set_seed(SEED)
    # SFTTrainer trains what it is given: the dropout rates of Qwen2 are 0, so train and eval mode agree.
    with trainer(trl.SFTTrainer, trl.SFTConfig, load(MODEL), dataset(rows), SEED, settings) as sft:
        columns = sft.train_dataset.column_names
        sequences = [
            {key: row[key] for key in ("input_ids", "labels", "seq_lengths") if key in columns}
            for row in sft.train_dataset
        ]
        steps = train(sft, METRICS)
    return {"sequences": sequences, "steps": steps, "probe_logits": last_logits(sft.model, PROBE)}


def dataset(rows):
    if rows == "conversations":
        lines = (FIXTURES / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]
    generator = torch.Generator().manual_seed(SEED)
    lengths = [5, 19, 3, 12, 4, 27, 6, 10, 8, 2, 16, 31]
    return [{"input_ids": torch.randint(0, 256, (length,), generator=generator).tolist()} for length in lengths]


if __name__ == "__main__":
    main()
