"""Golden runs of reward models: TRL's RewardTrainer in f32 on the `tied-grouped` fixture with a freshly drawn head.

Every case holds what was set, the pairs as they were trained on, what was logged at each step, and the scores that the
trained model gives for probes. `score` is the head before training.
"""

# First, since it keeps the libraries offline.
from reference import load_classifier, numbers, provenance, train, trainer, write

import datasets
import torch
import transformers
import trl

SEED = 42
MODEL = "tied-grouped"
PROBES = [[72, 105, 33, 256], [97, 98, 32, 120]]
METRICS = [
    "loss", "grad_norm", "learning_rate", "num_tokens", "min_reward", "mean_reward", "max_reward", "accuracy", "margin",
    "epoch",
]

COMMON = dict(learning_rate=2e-3, per_device_train_batch_size=2, num_train_epochs=2, max_length=256)

RUNS = {
    "reward": {},
    "centred": dict(center_rewards_coefficient=0.01),
    "margins": dict(per_device_train_batch_size=4, center_rewards_coefficient=0.1),
    "accumulated": dict(gradient_accumulation_steps=2),
}

PAIRS = [
    ("The sky is", " blue.", " green, or so.", 1.0),
    ("one two", " three", " 3", 0.5),
    ("ab", " cde", " xy", 0.0),
    ("hello", " world", " w", 2.0),
]


def main():
    transformers.set_seed(SEED)
    head = load_classifier(MODEL).score.weight.detach().clone()
    runs = {}
    for name, changes in RUNS.items():
        settings = {**COMMON, **changes}
        runs[name] = {"settings": settings, **run(settings, head, name == "margins")}
    record = provenance(SEED, trl=trl.__version__, datasets=datasets.__version__)
    values = {**record, "model": MODEL, "score": numbers(head[0]), "probes": PROBES, "metrics": METRICS, "runs": runs}
    write("reward", values)


def run(settings, head, with_margins):
    transformers.set_seed(SEED)
    model = load_classifier(MODEL)
    with torch.no_grad():
        model.score.weight.copy_(head)
    columns = ("prompt", "chosen", "rejected", "margin")
    rows = [dict(zip(columns if with_margins else columns[:3], pair)) for pair in PAIRS]
    with trainer(trl.RewardTrainer, trl.RewardConfig, model, rows, SEED, settings) as reward:
        pairs = [[row["chosen_ids"], row["rejected_ids"], row.get("margin")] for row in reward.train_dataset]
        steps = train(reward, METRICS)
    model = reward.model.eval()
    with torch.no_grad():
        scores = [model(torch.tensor([probe])).logits[0, 0] for probe in PROBES]
    return {"pairs": pairs, "steps": steps, "probe_scores": [numbers(score) for score in scores]}


if __name__ == "__main__":
    main()
