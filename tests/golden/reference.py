"""What the golden scripts share: where files lie, how values are written, and what they were made with."""

import contextlib
import json
import os
import platform
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import datasets
import torch
import transformers

GOLDEN = Path(__file__).resolve().parent
FIXTURES = GOLDEN.parent / "fixtures"
VALUES = GOLDEN / "values"

# Reductions in one order on every machine.
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)


def provenance(seed, dtype="float32", **more):
    """The record that goes into every file of golden values."""
    made_with = {
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        **more,
    }
    return {"made_with": made_with, "dtype": dtype, "seed": seed}


def write(name, value):
    """Writes `values/NAME.json`: one key or list item a line at the top levels, numbers in full."""
    path = VALUES / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(dump(value, 0) + "\n", encoding="utf-8")
    print(f"{path.relative_to(GOLDEN.parent)}: {path.stat().st_size} bytes")


def dump(value, depth):
    """JSON with line breaks where a person reads, and none inside rows of numbers."""
    if depth < 4 and isinstance(value, (dict, list)) and any(isinstance(v, (dict, list)) for v in items(value)):
        pad = " " * (depth + 1)
        if isinstance(value, dict):
            body = ",\n".join(f"{pad}{json.dumps(k)}: {dump(v, depth + 1)}" for k, v in value.items())
            return "{\n" + body + "\n" + " " * depth + "}"
        body = ",\n".join(pad + dump(v, depth + 1) for v in value)
        return "[\n" + body + "\n" + " " * depth + "]"
    return json.dumps(value, ensure_ascii=False)


def numbers(tensor):
    """The values of an f32 tensor with the nine digits that identify them."""
    if isinstance(tensor, torch.Tensor):
        return numbers(tensor.tolist())
    return [numbers(value) for value in tensor] if isinstance(tensor, list) else float(f"{tensor:.9g}")


def items(value):
    return value.values() if isinstance(value, dict) else value


def fixture_names():
    """The tiny models, in a fixed order."""
    return sorted(path.name for path in FIXTURES.iterdir() if (path / "config.json").exists())


def load_classifier(name):
    """A fixture as TRL makes a reward model of it: a freshly drawn head of one number, in f32."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        FIXTURES / name, num_labels=1, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def load(name, dtype=torch.float32):
    """A fixture as transformers loads it, computed in `dtype`."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        FIXTURES / name, dtype=dtype, attn_implementation="eager"
    )
    return model.eval()


def tokenizer(name):
    """The tokenizer of a fixture."""
    return transformers.AutoTokenizer.from_pretrained(FIXTURES / name)


@contextlib.contextmanager
def trainer(trainer_class, config_class, model, rows, seed, settings, tokenizer_of="tied-grouped"):
    """One of TRL's trainers in f32 on rows in their order, that logs every step and saves nothing."""
    with tempfile.TemporaryDirectory() as output_dir:
        config = config_class(
            output_dir=output_dir,
            seed=seed,
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
        yield trainer_class(model, args=config, train_dataset=dataset, processing_class=tokenizer(tokenizer_of))


def train(trainer, metrics):
    """Trains; what was logged at each step, in the order of `metrics`, null where a step lacks one."""
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    number = lambda value: None if value is None else float(f"{value:.9g}")
    return [[number(entry.get(key)) for key in metrics] for entry in history]


@torch.no_grad()
def last_logits(model, input_ids):
    """Logits after the last of the ids."""
    return numbers(model.eval()(torch.tensor([input_ids])).logits[0, -1])
