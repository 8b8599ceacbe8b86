"""Golden values of group relative policy optimisation and of REINFORCE leave-one-out: TRL's GRPOTrainer and RLOOTrainer
in f32.

`losses`: the trainer's own loss on fixed log-probabilities, with the gradient in every one of them and in every
entropy, and what it logs. `advantages`: what it makes of fixed rewards. `runs`: whole training runs on the
`tied-grouped` fixture with completions that are given instead of drawn: what was logged at each step, and the logits
that the trained model gives for a probe, every sixteenth of them.
"""

import contextlib
import functools
import itertools
import math

# First, since it keeps the libraries offline.
from reference import last_logits, load, numbers, provenance, trainer, write

import datasets
import torch
import transformers
import trl
import trl.trainer.grpo_trainer
import trl.trainer.rloo_trainer

SEED = 42
MODEL = "tied-grouped"
PROBE = [72, 105, 33, 256]
PROBE_STRIDE = 16
EOS = 256

# Micro-batches would be mixed by PyTorch's generator otherwise.
trl.trainer.grpo_trainer.shuffle_sequence_dict = lambda batch: batch
trl.trainer.rloo_trainer.shuffle_sequence_dict = lambda batch: batch

LOSS_TYPES = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo"]

PROMPTS = ["ab", "hello", "xyz", "q"]
COMPLETIONS = {
    "ab": [[66, 67, EOS], [68, EOS], [69, 70, 71, EOS], [72, 73, 74, 75]],
    "hello": [[1, 2, EOS], [3, 4, 5, EOS], [6, EOS], [7, 8, 9, 10]],
    "xyz": [[11, EOS], [12, 13, EOS], [14, 15, 16, EOS], [17, 18, 19, 20]],
    "q": [[21, 22, EOS], [23, EOS], [24, EOS], [25, 26, 27, 28]],
}
REWARDS = {
    "first": {
        "ab": [1.0, 0.0, 0.5, 0.0], "hello": [0.0, 1.0, 1.0, 0.0],
        "xyz": [1.0, 1.0, 1.0, 1.0], "q": [0.2, 0.0, 0.0, 1.0],
    },
    "second": {
        "ab": [0.3, 0.7, None, -1.0], "hello": [None, 2.0, 0.5, 0.25],
        "xyz": [0.0, -0.5, None, 3.0], "q": [1.0, None, None, 0.5],
    },
    # Nobody judges two of the completions of `q`, and only one of `xyz` is judged.
    "third": {
        "ab": [0.1, 0.2, 0.3, 0.4], "hello": [-1.0, 0.0, 1.0, 0.0],
        "xyz": [None, None, 0.5, None], "q": [None, 1.0, 0.25, None],
    },
}

COMMON = dict(
    learning_rate=2e-3, per_device_train_batch_size=8, num_train_epochs=2, num_generations=4, max_completion_length=8,
)
SPREAD = dict(per_device_train_batch_size=4, steps_per_generation=2)

# name -> (rewards, settings beside COMMON)
GRPO_RUNS = {
    "dapo": (["first"], {}),
    "accumulated": (["first"], dict(per_device_train_batch_size=4, gradient_accumulation_steps=2)),
    "two_iterations": (["first"], dict(num_iterations=2, loss_type="grpo", beta=0.04)),
    "uncorrected_kl": (["first"], dict(num_iterations=2, beta=0.1, use_bias_correction_kl=False)),
    "spread": (["first"], SPREAD),
    "spread_and_repeated": (["first"], dict(**SPREAD, num_iterations=2, loss_type="bnpo", epsilon=0.05)),
    "masked_truncated": (["first"], dict(mask_truncated_completions=True)),
    "temperature": (["first"], dict(temperature=0.7, num_iterations=2)),
    "dr_grpo": (["first"], dict(loss_type="dr_grpo", scale_rewards="none")),
    "batch_scale": (["first"], dict(scale_rewards="batch", loss_type="grpo")),
    "several_rewards": (["first", "second"], dict(reward_weights=[1.0, 0.5])),
    "gdpo": (["first", "second"], dict(reward_weights=[1.0, 0.5], multi_objective_aggregation="normalize_then_sum")),
    "unjudged": (["third"], {}),
    "cispo": (["first"], dict(**SPREAD, num_iterations=2, loss_type="cispo", epsilon_high=1.3)),
    "sapo": (["first"], dict(num_iterations=2, loss_type="sapo")),
    "vespo": (["first"], dict(num_iterations=2, loss_type="vespo")),
    "luspo": (["first"], dict(num_iterations=2, loss_type="luspo", importance_sampling_level="sequence")),
    "gspo": (["first"], dict(num_iterations=2, loss_type="grpo", importance_sampling_level="sequence", epsilon=0.01)),
    "two_sided": (["first"], dict(num_iterations=3, delta=1.5, epsilon_high=0.28, learning_rate=1e-2)),
    "high_entropy": (["first"], dict(top_entropy_quantile=0.5)),
    "entropy_bonus": (["first"], dict(entropy_coef=0.05)),
    "adaptive_entropy": (
        ["first"],
        dict(entropy_coef=0.02, use_adaptive_entropy=True, entropy_target=5.48, entropy_coef_delta=0.01),
    ),
    "off_policy_mask": (["first"], dict(num_iterations=3, off_policy_mask_threshold=0.05, learning_rate=1e-2)),
    "synced_reference": (
        ["first"], dict(beta=0.2, sync_ref_model=True, ref_model_sync_steps=2, ref_model_mixup_alpha=0.6)
    ),
}
RLOO_RUNS = {
    "rloo": (["first"], {}),
    "two_iterations": (["first"], dict(num_iterations=2, learning_rate=1e-2)),
    "normalized": (["first", "second"], dict(normalize_advantages=True, beta=0.2, reward_weights=[1.0, 0.5])),
    "clipped_rewards": (["first"], dict(reward_clip_range=[0.1, 0.6], beta=0.0, temperature=1.3)),
    "unjudged": (["third"], dict(mask_truncated_completions=True, num_iterations=2)),
    "spread": (["first"], dict(**SPREAD, gradient_accumulation_steps=1, epsilon=0.05, epsilon_high=0.1)),
}


def main():
    record = provenance(SEED, trl=trl.__version__, datasets=datasets.__version__)
    write(
        "grpo",
        {
            **record,
            "model": MODEL,
            "probe_ids": PROBE,
            "prompts": PROMPTS,
            "completions": COMPLETIONS,
            "rewards": REWARDS,
            "losses": losses(),
            "advantages": advantages(),
            "grpo": {name: train(trl.GRPOTrainer, trl.GRPOConfig, *run) for name, run in GRPO_RUNS.items()},
            "rloo": {name: train(trl.RLOOTrainer, trl.RLOOConfig, *run) for name, run in RLOO_RUNS.items()},
        },
    )


def reward(name):
    """What is listed, for completions in the order in which they were given out."""

    def judge(prompts, completion_ids, **_):
        known = zip(prompts, completion_ids)
        return [REWARDS[name][prompt][COMPLETIONS[prompt].index(list(ids))] for prompt, ids in known]

    judge.__name__ = name
    return judge


def rollout(prompts, trainer):
    """The listed completions: each prompt comes as often as it has any."""
    tokenizer = trainer.processing_class
    given, ids = {prompt: itertools.cycle(COMPLETIONS[prompt]) for prompt in PROMPTS}, []
    for prompt in prompts:
        ids.append(next(given[prompt]))
    return {"prompt_ids": [tokenizer(prompt)["input_ids"] for prompt in prompts], "completion_ids": ids, "logprobs": None}


@contextlib.contextmanager
def make(trainer_class, config_class, rewards, settings):
    transformers.set_seed(SEED)
    more = {"rollout_func": rollout} if trainer_class is trl.GRPOTrainer else {}
    judged = functools.partial(trainer_class, reward_funcs=[reward(name) for name in rewards], **more)
    rows = [{"prompt": prompt} for prompt in PROMPTS]
    settings = {"shuffle_dataset": False, **settings}
    with trainer(judged, config_class, load(MODEL), rows, SEED, settings, MODEL) as made:
        if trainer_class is trl.RLOOTrainer:
            # It has no such function.
            made._generate = functools.partial(generate, made)
        yield made


def generate(trainer, prompts):
    out = rollout(prompts, trainer)
    count(trainer, out["prompt_ids"], out["completion_ids"])
    return out["prompt_ids"], out["completion_ids"], trainer.processing_class.batch_decode(out["completion_ids"])


def count(trainer, prompt_ids, completion_ids):
    """The metrics of `RLOOTrainer._generate`."""
    metrics = trainer._metrics["train"]
    lens = [len(ids) for ids in completion_ids]
    trainer.state.num_input_tokens_seen += sum(lens) + sum(len(ids) for ids in prompt_ids)
    metrics["num_tokens"] = [trainer.state.num_input_tokens_seen]
    ended = [len(ids) for ids in completion_ids if ids[-1] == EOS] or [0]
    for kind, values in (("", lens), ("terminated_", ended)):
        metrics[f"completions/mean_{kind}length"].append(sum(values) / len(values))
        metrics[f"completions/min_{kind}length"].append(min(values))
        metrics[f"completions/max_{kind}length"].append(max(values))
    metrics["completions/clipped_ratio"].append(sum(ids[-1] != EOS for ids in completion_ids) / len(lens))


def train(trainer_class, config_class, rewards, changes):
    settings = {**COMMON, **changes}
    with make(trainer_class, config_class, rewards, settings) as made:
        made.train()
        history = [entry for entry in made.state.log_history if "loss" in entry]
    skipped = {"step_time", "total_flos"}
    steps = [
        {
            key: float(f"{value:.9g}")
            for key, value in entry.items()
            if key not in skipped and not key.startswith("profiling") and not math.isnan(value)
        }
        for entry in history
    ]
    return {
        "rewards": rewards,
        "settings": settings,
        "steps": columns(steps),
        # All logits come of all weights: some of them prove as much.
        "probe_logits": last_logits(made.model, PROBE)[::PROBE_STRIDE],
    }


def columns(steps):
    """What was logged, a list for each metric: null at steps that do not have it."""
    names = dict.fromkeys(name for step in steps for name in step if name != "step")
    return {name: [step.get(name) for step in steps] for name in names}


# What the README of a table of fixed values would say: two completions, of which the first has three tokens.
FIXED = dict(
    logprobs=[[-1, -0.5, -2, -0.1], [-0.7, -1.5, -0.3, -0.9]],
    old_logprobs=[[-1.2, -0.4, -1.4, -0.1], [-1.2, -1.5, -0.8, -0.9]],
    ref_logprobs=[[-1.1, -0.6, -1.9, -0.3], [-0.6, -1.4, -0.5, -0.9]],
    entropy=[[0.9, 0.2, 1.4, 0.1], [0.6, 1.1, 0.3, 0.5]],
    completion_mask=[[1, 1, 1, 0], [1, 1, 1, 1]],
    advantages=[1.5, -0.5],
)


def drawn():
    """Six completions of up to nine tokens, one of which does not count at all, with ratios on both sides of 1."""
    generator = torch.Generator().manual_seed(SEED)
    lens = [9, 4, 1, 7, 5, 6]
    mask = torch.tensor([[int(column < length) for column in range(9)] for length in lens])
    mask[4] = 0
    random = lambda scale, shift=0.0: (shift + scale * torch.rand(6, 9, generator=generator)).mul(10000).round() / 10000
    logprobs = random(-3.0)
    old = (logprobs + random(1.2, -0.6)).clamp(max=0)
    ref = (logprobs + random(1.2, -0.6)).clamp(max=0)
    return dict(
        logprobs=numbers(logprobs),
        old_logprobs=numbers(old),
        ref_logprobs=numbers(ref),
        entropy=numbers(random(2.5)),
        completion_mask=mask.tolist(),
        advantages=[1.5, -0.7, 0.4, -1.9, 0.8, 0.0],
    )


def cases():
    for loss_type in LOSS_TYPES:
        own = dict(loss_type=loss_type, **({"epsilon_high": 1.3} if loss_type == "cispo" else {}))
        yield own
        yield dict(own, importance_sampling_level="sequence")
        yield dict(own, beta=0.04)
        yield dict(own, beta=0.3, use_bias_correction_kl=False, importance_sampling_level="sequence")
        yield dict(own, top_entropy_quantile=0.5)
        yield dict(own, entropy_coef=0.01)
        yield dict(own, off_policy_mask_threshold=0.05)
        yield dict(own, top_entropy_quantile=0.2, entropy_coef=-0.1, beta=0.1)
    for delta in (1.05, 1.3, 4.0):
        yield dict(loss_type="grpo", delta=delta)
    yield dict(loss_type="dapo", epsilon=0.05, epsilon_high=0.28)
    yield dict(loss_type="cispo")
    yield dict(loss_type="sapo", sapo_temperature_pos=2.0, sapo_temperature_neg=0.5)
    yield dict(loss_type="vespo", vespo_k_pos=1.0, vespo_lambda_pos=0.5, vespo_k_neg=0.2, vespo_lambda_neg=0.0)
    yield dict(loss_type="luspo", importance_sampling_level="sequence", off_policy_mask_threshold=-0.1)
    yield dict(loss_type="grpo", top_entropy_quantile=0.0)
    yield dict(loss_type="grpo", old_logprobs=False)
    yield dict(loss_type="cispo", old_logprobs=False, beta=0.1)


def losses():
    """The trainer's loss on fixed tensors, for every loss type and option."""
    tables = {"small": FIXED, "large": drawn()}
    normalizers = {
        "small": dict(accumulation_steps=2, steps_per_generation=4, num_items=20, max_completion_length=8),
        "large": dict(accumulation_steps=3, steps_per_generation=3, num_items=70, max_completion_length=12),
    }
    with make(trl.GRPOTrainer, trl.GRPOConfig, ["first"], COMMON) as made:
        results = [
            {"table": table, "settings": case, **loss(made, tables[table], normalizers[table], case)}
            for table in tables
            for case in cases()
        ]
    return {"tables": tables, "normalizers": normalizers, "cases": results}


def loss(trainer, table, normalizer, case):
    fields = trl.GRPOConfig.__dataclass_fields__
    setting = lambda key: case.get(key, fields[key].default)
    trainer.loss_type, trainer.beta = setting("loss_type"), setting("beta")
    trainer.epsilon_low = setting("epsilon")
    trainer.epsilon_high = setting("epsilon_high") if setting("epsilon_high") is not None else trainer.epsilon_low
    trainer.importance_sampling_level = setting("importance_sampling_level")
    trainer.top_entropy_quantile = setting("top_entropy_quantile")
    trainer.off_policy_mask_threshold = setting("off_policy_mask_threshold")
    trainer.entropy_coef = setting("entropy_coef")
    trainer._entropy_bonus_enabled = trainer.entropy_coef != 0.0
    for key in (
        "delta", "use_bias_correction_kl", "sapo_temperature_pos", "sapo_temperature_neg", "vespo_k_pos",
        "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg",
    ):
        setattr(trainer.args, key, setting(key))
    trainer.max_completion_length = normalizer["max_completion_length"]
    trainer.current_gradient_accumulation_steps = normalizer["accumulation_steps"]
    trainer.args.steps_per_generation = normalizer["steps_per_generation"]
    trainer._metrics["train"].clear()
    trainer.model.train()

    tensor = lambda key: torch.tensor(table[key], dtype=torch.float32)
    logprobs, entropy = tensor("logprobs").requires_grad_(), tensor("entropy").requires_grad_()
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logprobs, entropy, None)
    mask = torch.tensor(table["completion_mask"])
    inputs = {
        "prompt_ids": torch.ones(len(mask), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(mask), 1, dtype=torch.long),
        "completion_ids": torch.ones_like(mask),
        "completion_mask": mask,
        "advantages": tensor("advantages"),
        "num_items_in_batch": torch.tensor(normalizer["num_items"]),
        "ref_per_token_logps": tensor("ref_logprobs"),
    }
    if case.get("old_logprobs", True):
        inputs["old_per_token_logps"] = tensor("old_logprobs")
    value = trainer._compute_loss(trainer.model, inputs)
    value.backward()
    result = {"loss": numbers(value.detach()), "gradient": numbers(logprobs.grad)}
    if entropy.grad is not None:
        result["entropy_gradient"] = numbers(entropy.grad)
    metrics = trainer._metrics["train"]
    return {**result, "metrics": {key: float(f"{values[0]:.9g}") for key, values in metrics.items()}}


def advantages():
    """What the trainer makes of fixed rewards, for every way of scaling and adding them."""
    results = []
    for rewards in (["first"], ["first", "second"], ["third"], ["second", "third"]):
        weights = [1.0, 0.5][: len(rewards)]
        for aggregation, scale in (
            ("sum_then_normalize", "group"), ("sum_then_normalize", "batch"), ("sum_then_normalize", "none"),
            ("normalize_then_sum", "group"),
        ):
            settings = dict(scale_rewards=scale, multi_objective_aggregation=aggregation, reward_weights=weights)
            results.append(judged(trl.GRPOTrainer, trl.GRPOConfig, rewards, settings, "grpo"))
        for settings in (
            dict(beta=0.0), dict(beta=0.0, normalize_advantages=True), dict(beta=0.0, reward_clip_range=[0.0, 0.6]),
        ):
            settings = dict(settings, reward_weights=weights)
            results.append(judged(trl.RLOOTrainer, trl.RLOOConfig, rewards, settings, "rloo"))
    return results


def judged(trainer_class, config_class, rewards, settings, method):
    settings = {**settings, "per_device_train_batch_size": 16, "num_generations": 4, "max_completion_length": 8}
    with make(trainer_class, config_class, rewards, settings) as made:
        made.model.train()
        rows = [{"prompt": prompt} for prompt in PROMPTS for _ in range(4)]
        output = made._generate_and_score_completions(rows)
    metrics = made._metrics["train"]
    told = {key: metrics[key][0] for key in ("reward", "reward_std", "frac_reward_zero_std")}
    told = {key: float(f"{value:.9g}") for key, value in told.items()}
    return {
        "method": method, "rewards": rewards, "settings": settings, "advantages": numbers(output["advantages"]),
        "metrics": told,
    }


if __name__ == "__main__":
    main()
