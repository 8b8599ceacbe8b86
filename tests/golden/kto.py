"""Golden runs of Kahneman-Tversky optimisation: TRL's KTOTrainer in f32 on the `tied-grouped` fixture.

Every case holds what was set, the rows as they were trained on, what was logged at each step, and the logits that the
trained model gives for a probe. A metric that a step does not have, as of good answers where all are bad, is null.
"""

# First, since it keeps the libraries offline.
from reference import last_logits, load, provenance, train, trainer, write

import datasets
import transformers
import trl

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
    runs = {name: {"settings": {**COMMON, **changes}, **run({**COMMON, **changes})} for name, changes in RUNS.items()}
    record = provenance(SEED, trl=trl.__version__, datasets=datasets.__version__)
    write("kto", {**record, "model": MODEL, "probe_ids": PROBE, "metrics": METRICS, "runs": runs})


def run(settings):
    transformers.set_seed(SEED)
    rows = [dict(zip(("prompt", "completion", "label"), row)) for row in ROWS]
    with trainer(trl.KTOTrainer, trl.KTOConfig, load(MODEL), rows, SEED, settings) as kto:
        answers = [[row["prompt_ids"], row["completion_ids"], row["label"]] for row in kto.train_dataset]
        steps = train(kto, METRICS)
    return {"answers": answers, "steps": steps, "probe_logits": last_logits(kto.model, PROBE)}


if __name__ == "__main__":
    main()
