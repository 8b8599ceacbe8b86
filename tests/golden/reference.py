"""What the golden scripts share: where files lie, how values are written, and what they were made with."""

import json
import platform
from pathlib import Path

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


def load(name, dtype=torch.float32):
    """A fixture as transformers loads it, computed in `dtype`."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        FIXTURES / name, dtype=dtype, attn_implementation="eager"
    )
    return model.eval()
