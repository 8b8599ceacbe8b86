"""Golden runs of Kahneman-Tversky optimisation: TRL's KTOTrainer in f32 on the `tied-grouped` fixture.

Every case holds what was set, the rows as they were trained on, what was logged at each step, and the logits that the
trained model gives for a probe. A metric that a step does not have, as of good answers where all are bad, is null.
"""

import os
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import datasets
import torch
import transformers
import trl

from reference import FIXTURES, load, numbers, provenance, write

SEED = 42
MODEL = "tied-grouped"
PROBE = [72, 105, 33, 256]
METRICS = [
    "loss", "grad_norm", "learning_rate", "entropy", "num_tokens", "kl", "logits/chosen", "logits/rejected",
    "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected", "epoch",
]

COMMON = dict(learning_rate=2e-3, per_device_train_batch_size=4, num_train_epochs=3, max_length=256)

RUNS = {
    "kto": {},
    "weighted": dict(desirable_weight=1.5, undesirable_weight=0.5, beta=0.5, per_device_train_batch_size=2),
    "apo_zero_unpaired": dict(loss_type="apo_zero_unpaired", beta=0.3),
    "accumulated": dict(per_device_train_batch_size=2, gradient_accumulation_steps=2, beta=0.3),
}

ROWS = [
    ("ab", " cde", True),
    ("ab", " xy", False),
    ("q", " rs and more", True),
    ("hello", " world", True),
    ("hello", " w", False),
    ("one two", " 3", False),
    ("The sky is", " blue.", True),
    ("The sky is", " green, or so.", False),
]


def main():
    runs = {name: {"settings": {**COMMON, **changes}, **train({**COMMON, **changes})} for name, changes in RUNS.items()}
    record = provenance(SEED, trl=trl.__version__, datasets=datasets.__version__)
    write("kto", {**record, "model": MODEL, "probe_ids": PROBE, "metrics": METRICS, "runs": runs})


def train(settings):
    transformers.set_seed(SEED)
    model = load(MODEL)
    tokenizer = transformers.AutoTokenizer.from_pretrained(FIXTURES / MODEL)
    rows = [dict(zip(("prompt", "completion", "label"), row)) for row in ROWS]
    with tempfile.TemporaryDirectory() as output_dir:
        config = trl.KTOConfig(
            output_dir=output_dir,
            seed=SEED,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **settings,
        )
        dataset = datasets.Dataset.from_list(rows)
        kto = trl.KTOTrainer(model, args=config, train_dataset=dataset, processing_class=tokenizer)
        answers = [[row["prompt_ids"], row["completion_ids"], row["label"]] for row in kto.train_dataset]
        kto.train()
        history = [entry for entry in kto.state.log_history if "loss" in entry]
    number = lambda value: None if value is None else float(f"{value:.9g}")
    steps = [[number(entry.get(key)) for key in METRICS] for entry in history]
    with torch.no_grad():
        logits = kto.model.eval()(torch.tensor([PROBE])).logits[0, -1]
    return {"answers": answers, "steps": steps, "probe_logits": numbers(logits)}


if __name__ == "__main__":
    main()
