"""Makes the tiny models under `tests/fixtures`: one for every way in which Qwen2 checkpoints differ.

All weights are random, biases and norms too, so that nothing is tested with zeros or ones.
The folders are written by transformers; `rewrite_config` then makes one of them look as transformers 4 wrote it.
"""

import json
import shutil

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from reference import FIXTURES

SEED = 20
SPECIAL_TOKENS = ["<|im_end|>", "<|endoftext|>", "<|im_start|>"]

# Wide enough for confident predictions, so that greedy choices do not hang on the last bit.
INITIALIZER_RANGE = 0.2

TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}
            {{- message.content + '<|im_end|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message.content + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

COMMON = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    max_position_embeddings=256,
    initializer_range=INITIALIZER_RANGE,
    bos_token_id=None,
)

# name -> (what differs, dtype on disk, largest file)
MODELS = {
    # Qwen2.5-0.5B in small: tied head, grouped heads, theta 1e6. The only one with a tokenizer.
    "tied-grouped": (
        dict(
            vocab_size=256 + len(SPECIAL_TOKENS),
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            eos_token_id=256,
            pad_token_id=257,
        ),
        torch.float32,
        "1GB",
    ),
    # Qwen2.5-7B in small: a head of its own, several files.
    "untied-sharded": (
        dict(
            vocab_size=96,
            num_attention_heads=4,
            num_key_value_heads=4,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            eos_token_id=95,
        ),
        torch.float32,
        "40KB",
    ),
    # One key-value head for all, a head size that is not hidden / heads, a larger epsilon, bf16 on disk.
    "single-kv-bf16": (
        dict(
            vocab_size=96,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=12,
            tie_word_embeddings=True,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 5e5},
            eos_token_id=[95, 94],
        ),
        torch.bfloat16,
        "1GB",
    ),
    # A config.json of transformers 4: `rope_theta` and `torch_dtype` at the top, no `rope_parameters`. f16 on disk.
    "old-config-f16": (
        dict(
            vocab_size=96,
            num_attention_heads=6,
            num_key_value_heads=3,
            hidden_size=48,
            num_hidden_layers=3,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 2.5e5},
            eos_token_id=95,
        ),
        torch.float16,
        "1GB",
    ),
}


def main():
    for index, (name, (changes, dtype, max_shard_size)) in enumerate(MODELS.items()):
        torch.manual_seed(SEED + index)
        config = Qwen2Config(**{**COMMON, **changes})
        model = Qwen2ForCausalLM(config).eval()
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter_name.endswith("norm.weight"):
                    parameter.uniform_(0.5, 1.5)
                else:
                    parameter.normal_(std=INITIALIZER_RANGE)
        directory = FIXTURES / name
        shutil.rmtree(directory, ignore_errors=True)
        model.to(dtype).save_pretrained(directory, max_shard_size=max_shard_size)
        if name.startswith("old-config"):
            rewrite_config(directory / "config.json")
        if name == "tied-grouped":
            tokenizer().save_pretrained(directory)
        total = sum(path.stat().st_size for path in directory.iterdir())
        print(f"fixtures/{name}: {total} bytes")


def rewrite_config(path):
    """Spells a configuration as transformers 4.4x did."""
    config = json.loads(path.read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.43.1"
    for newer in ("layer_types",):
        config.pop(newer, None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def tokenizer():
    """One token per byte, and the three control tokens of Qwen."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


if __name__ == "__main__":
    main()
