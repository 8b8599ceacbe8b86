"""Runs of TRL's DPOTrainer, KTOTrainer, GRPOTrainer and RLOOTrainer with settings drawn at random, for a comparison by hand.

    python random_runs.py SEED COUNT FILE
    REHEAT_RANDOM_RUNS=FILE cargo test --release --test parity random_runs

Settings that TRL refuses are drawn again.
"""

import json
import random
import sys

# First, since it keeps the libraries offline.
import dpo
import grpo
import kto
from reference import provenance

import trl


def options(rng, table):
    """Of each key, with a probability, one of its values."""
    return {key: rng.choice(values) for key, (share, values) in table.items() if rng.random() < share}


SHARED = {
    "learning_rate": (0.5, [5e-4, 5e-3]),
    "max_grad_norm": (0.2, [0.1, 0.0]),
    "lr_scheduler_type": (0.2, ["cosine", "constant"]),
    "weight_decay": (0.2, [0.1]),
}
ROLLOUTS = {
    **SHARED,
    "num_iterations": (0.5, [2, 3]),
    "beta": (0.5, [0.01, 0.1, 0.3]),
    "epsilon": (0.4, [0.01, 0.05, 0.3]),
    "epsilon_high": (0.4, [0.02, 0.28, 1.5]),
    "temperature": (0.3, [0.6, 1.3]),
    "mask_truncated_completions": (0.3, [True]),
}
LAYOUTS = [
    {},
    dict(per_device_train_batch_size=4, gradient_accumulation_steps=2),
    dict(per_device_train_batch_size=4, steps_per_generation=2),
    dict(per_device_train_batch_size=4, steps_per_generation=4),
    dict(per_device_train_batch_size=2, gradient_accumulation_steps=4),
    dict(per_device_train_batch_size=16),
]
GRPO = {
    "loss_type": (0.9, grpo.LOSS_TYPES),
    "scale_rewards": (0.5, ["group", "batch", "none"]),
    "importance_sampling_level": (0.4, ["sequence"]),
    "delta": (0.3, [1.5, 3.0]),
    "use_bias_correction_kl": (0.4, [False]),
    "multi_objective_aggregation": (0.3, ["normalize_then_sum"]),
    "top_entropy_quantile": (0.25, [0.3, 0.7]),
    "entropy_coef": (0.25, [0.05, -0.02]),
    "off_policy_mask_threshold": (0.25, [0.01, 0.1]),
    "sapo_temperature_pos": (0.2, [0.7]),
    "vespo_k_pos": (0.2, [1.2]),
}
RLOO = {"normalize_advantages": (0.4, [True]), "reward_clip_range": (0.3, [[0.0, 0.8]])}
REWARDS = [["first"], ["second"], ["third"], ["first", "second"], ["first", "second", "third"]]

DPO = {
    **SHARED,
    "beta": (0.7, [0.05, 0.3, 1.0]),
    "label_smoothing": (0.3, [0.1]),
    "f_divergence_type": (0.3, ["forward_kl", "js_divergence", "alpha_divergence"]),
    "f_alpha_divergence_coef": (0.2, [0.3, 1.5]),
    "ld_alpha": (0.3, [0.0, 0.4]),
    "use_weighting": (0.2, [True]),
    "per_device_train_batch_size": (0.4, [1, 3]),
    "gradient_accumulation_steps": (0.3, [2]),
    "num_train_epochs": (0.3, [1]),
}
KTO = {
    **SHARED,
    "beta": (0.7, [0.05, 0.3, 1.0]),
    "loss_type": (0.3, ["apo_zero_unpaired"]),
    "desirable_weight": (0.4, [0.5, 2.0]),
    "undesirable_weight": (0.4, [0.5, 1.33]),
    "per_device_train_batch_size": (0.5, [2, 3, 8]),
    "gradient_accumulation_steps": (0.3, [2]),
}


def rollout_run(rng, own):
    rewards = rng.choice(REWARDS)
    settings = {**rng.choice(LAYOUTS), **options(rng, ROLLOUTS), **options(rng, own)}
    if len(rewards) > 1 and rng.random() < 0.6:
        settings["reward_weights"] = [rng.choice([0.2, 1.0, -0.5, 2.0]) for _ in rewards]
    if settings.get("beta"):
        follow(rng, settings)
    if settings.get("entropy_coef", 0) > 0 and rng.random() < 0.5:
        target = rng.choice([5.4, 5.6])
        settings.update(use_adaptive_entropy=True, entropy_target=target, entropy_coef_delta=0.01)
    return rewards, settings


def follow(rng, settings):
    """Sometimes lets the reference follow the policy."""
    if rng.random() < 0.3:
        share = rng.choice([0.3, 0.9])
        settings.update(sync_ref_model=True, ref_model_sync_steps=rng.choice([1, 2]), ref_model_mixup_alpha=share)


def kto_run(rng):
    settings = {**kto.COMMON, **options(rng, KTO)}
    return {"settings": settings, **kto.run(settings)}


def dpo_run(rng):
    settings = {**dpo.COMMON, "loss_type": rng.sample(dpo.LOSS_TYPES, rng.choice([1, 1, 2])), **options(rng, DPO)}
    if len(settings["loss_type"]) > 1:
        settings["loss_weights"] = [rng.choice([0.3, 1.0, 2.0]) for _ in settings["loss_type"]]
    follow(rng, settings)
    rows = rng.choice(["text", "text", "conversations"])
    return {"settings": settings, **dpo.run(rows, settings)}


def attempt(make):
    """The first that TRL takes."""
    for _ in range(20):
        try:
            return make()
        except Exception as refusal:
            print(type(refusal).__name__, str(refusal)[:160], file=sys.stderr)
    raise SystemExit("TRL refuses everything")


def main():
    seed, count, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    rng = random.Random(seed)
    run = lambda trainer, config, own: grpo.train(trainer, config, *rollout_run(rng, own))
    values = {
        **provenance(grpo.SEED, trl=trl.__version__),
        "model": grpo.MODEL,
        "probe_ids": grpo.PROBE,
        "prompts": grpo.PROMPTS,
        "completions": grpo.COMPLETIONS,
        "rewards": grpo.REWARDS,
        "metrics": {"dpo": dpo.METRICS, "kto": kto.METRICS},
        "grpo": [attempt(lambda: run(trl.GRPOTrainer, trl.GRPOConfig, GRPO)) for _ in range(count)],
        "rloo": [attempt(lambda: run(trl.RLOOTrainer, trl.RLOOConfig, RLOO)) for _ in range(count // 2)],
        "kto": [attempt(lambda: kto_run(rng)) for _ in range(count // 2)],
        "dpo": [attempt(lambda: dpo_run(rng)) for _ in range(count)],
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(values, file)


if __name__ == "__main__":
    main()
