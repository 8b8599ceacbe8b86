"""Golden values of low-rank adapters: PEFT's adapters on the `tied-grouped` fixture, and TRL's training of them.

Writes the adapters under `../fixtures/adapters`, `values/adapters.json` with the last logits of each, alone and merged,
and `values/lora.json` with training runs that start from the adapters called `init-…`, whose B is zero.
"""

import json
import shutil

# First, since it keeps the libraries offline.
from reference import FIXTURES, last_logits, load, provenance, train, trainer, write

import datasets
import peft
import torch
import transformers
import trl

SEED = 7
MODEL = "tied-grouped"
ADAPTERS = FIXTURES / "adapters"
INPUT_IDS = [3, 1, 4, 1, 5, 9, 2, 6]
METRICS = ["loss", "grad_norm", "learning_rate", "entropy", "mean_token_accuracy", "num_tokens", "epoch"]

# name -> settings of LoraConfig; all but the `init-…` get a random B and random magnitudes.
CASES = {
    "all-linear": dict(r=4, lora_alpha=8, target_modules="all-linear"),
    # A regular expression, ranks and alphas that differ by layer.
    "patterns": dict(
        r=4,
        lora_alpha=6,
        target_modules=r".*\.layers\.1\.(self_attn\.[qo]_proj|mlp\.down_proj)",
        rank_pattern={"q_proj": 2},
        alpha_pattern={r"mlp\.down_proj": 3},
    ),
    "rslora-dora": dict(r=3, lora_alpha=5, target_modules=["k_proj", "up_proj"], use_rslora=True, use_dora=True),
    # The head of a tied model is trained by itself.
    "saved-modules": dict(r=2, lora_alpha=4, target_modules=["v_proj"], modules_to_save=["lm_head", "input_layernorm"]),
    "init-lora": dict(r=4, lora_alpha=8, target_modules="all-linear"),
    "init-dora": dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "gate_proj"], use_dora=True, use_rslora=True),
    "init-saved": dict(r=2, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["lm_head", "norm"]),
    # Rows of the embedding, and of the head that is tied to it; three of them are in INPUT_IDS.
    "tokens": dict(r=2, lora_alpha=4, target_modules=["q_proj"], trainable_token_indices=[9, 3, 200, 5]),
    "init-tokens": dict(r=2, lora_alpha=4, target_modules=["up_proj"], trainable_token_indices=[2, 77, 140, 9]),
}

TRAINING = dict(
    learning_rate=2e-2,
    lr_scheduler_type="linear",
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,
    num_train_epochs=2,
    weight_decay=0.1,
    max_length=256,
)


# TRL's fused head asks for a weight and a bias; PEFT's wrapper of a tied head has none, and no row of its own in the other.
TokensWrapper = peft.utils.other.TrainableTokensWrapper
TokensWrapper.weight = property(lambda self: self.token_adapter.get_merged_weights(self.token_adapter.active_adapters))
TokensWrapper.bias = None


def main():
    shutil.rmtree(ADAPTERS, ignore_errors=True)
    cases, runs = {}, {}
    for index, (name, settings) in enumerate(CASES.items()):
        torch.manual_seed(SEED + index)
        config = peft.LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **settings)
        model = peft.get_peft_model(load(MODEL), config).eval()
        if not name.startswith("init-"):
            randomise(model)
        save(model, ADAPTERS / name)
        cases[name] = {"logits": last_logits(model, INPUT_IDS)}
        if name.startswith("init-"):
            runs[name] = run(ADAPTERS / name)
        else:
            cases[name]["merged_logits"] = last_logits(model.merge_and_unload(), INPUT_IDS)
    record = provenance(SEED, peft=peft.__version__)
    write("adapters", {**record, "model": MODEL, "input_ids": INPUT_IDS, "cases": cases})
    record = provenance(SEED, peft=peft.__version__, trl=trl.__version__, datasets=datasets.__version__)
    shared = {**record, "model": MODEL, "probe_ids": INPUT_IDS, "metrics": METRICS, "settings": TRAINING}
    write("lora", {**shared, "rows": rows(), "cases": runs})


@torch.no_grad()
def randomise(model):
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.1)
        elif "lora_magnitude" in name:
            parameter.mul_(torch.empty_like(parameter).uniform_(0.5, 1.5))
        elif "modules_to_save" in name or "trainable_tokens" in name:
            parameter.add_(torch.empty_like(parameter).normal_(std=0.05))


def save(model, directory):
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    path = directory / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = MODEL
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def run(directory):
    transformers.set_seed(SEED)
    model = peft.PeftModel.from_pretrained(load(MODEL), directory, is_trainable=True)
    dataset = [{"input_ids": ids} for ids in rows()]
    with trainer(trl.SFTTrainer, trl.SFTConfig, model, dataset, SEED, TRAINING) as sft:
        steps = train(sft, METRICS)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {"trained_parameters": trained, "steps": steps, "probe_logits": last_logits(sft.model, INPUT_IDS)}


def rows():
    generator = torch.Generator().manual_seed(SEED)
    lengths = [5, 19, 3, 12, 4, 27, 6, 10, 8]
    return [torch.randint(0, 256, (length,), generator=generator).tolist() for length in lengths]


if __name__ == "__main__":
    main()
