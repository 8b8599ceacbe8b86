"""Golden rows: what TRL's trainers make of datasets before they train, with the tokenizer of the `tied-grouped` fixture.

Every case holds the rows, the settings and the columns that training reads. Nothing is trained.
"""

# First, since it keeps the libraries offline.
from reference import load, load_classifier, provenance, tokenizer, trainer, write

import tempfile

import datasets
import transformers
import trl

SEED = 42
MODEL = "tied-grouped"


def said(role, content):
    return {"role": role, "content": content}


TEXTS = [{"text": "A short text."}, {"text": "One that ends already.<|im_end|>"}, {"text": "A text that is cut."}]

CHATS = [
    {"messages": [said("user", "Hi"), said("assistant", "Yo!"), said("user", "2+2?"), said("assistant", "4")]},
    {"messages": [said("system", "Be brief."), said("user", "Name a fruit."), said("assistant", "Fig.")]},
]

TEXT_PAIRS = [
    {"prompt": "The sky is", "completion": " blue."},
    {"prompt": "The sun is up. ", "completion": "It is day.<|im_end|>"},
    {"prompt": "A prompt that leaves no room", "completion": " x"},
]

CHAT_PAIRS = [
    {"prompt": [said("user", "Hi")], "completion": [said("assistant", "Yo!")]},
    # The prompt holds an answer; only what follows it is a completion.
    {
        "prompt": [said("user", "Hi"), said("assistant", "Yo!"), said("user", "2+2?")],
        "completion": [said("assistant", "4"), said("user", "sure?"), said("assistant", "yes")],
    },
    # The prompt ends with the assistant.
    {"prompt": [said("user", "Hi"), said("assistant", "Well,")], "completion": [said("assistant", "yes.")]},
]

TEXT_PREFERENCES = [
    {"prompt": "The sky is", "chosen": " blue.", "rejected": " green, I think."},
    {"prompt": "A prompt that leaves no room", "chosen": " x", "rejected": " y"},
]

IMPLICIT = [
    {"chosen": "The sky is blue.", "rejected": "The sky is green."},
    {"chosen": "ab", "rejected": "ac"},
    {"chosen": "It is so", "rejected": "It is so, yes"},
]

CHAT_PREFERENCES = [
    {"prompt": [said("user", "Sky?")], "chosen": [said("assistant", "Blue.")], "rejected": [said("assistant", "Red.")]},
    {
        "prompt": [said("system", "Brief."), said("user", "Sun?")],
        "chosen": [said("assistant", "Up.")],
        "rejected": [said("assistant", "I do not know where it is.")],
    },
]

IMPLICIT_CHATS = [
    {key: row["prompt"] + row[key] for key in ("chosen", "rejected")} for row in CHAT_PREFERENCES
]

LABELLED = [
    {"prompt": "The sky is", "completion": " blue.", "label": True},
    {"prompt": "The sky is", "completion": " green.", "label": False},
]

TEXT_PROMPTS = [
    {"prompt": "The sky is", "solution": "blue", "level": 1},
    {"prompt": "A prompt that ends its turn.<|im_end|>", "solution": "", "level": 2},
]

CHAT_PROMPTS = [
    {"id": 1, "prompt": [said("user", "2+2?")], "solutions": ["4", "four"], "weight": 0.5},
    {"id": 2, "prompt": [said("system", "Be brief."), said("user", "Sun?")], "solutions": ["up"], "weight": 1.0},
    # The prompt ends with the assistant.
    {"id": 3, "prompt": [said("user", "Hi"), said("assistant", "Well,")], "solutions": [], "weight": 0.1},
]

TOKENS = [{"input_ids": list(range(start, start + length))} for start, length in
          [(0, 5), (10, 9), (20, 3), (30, 12), (50, 4), (60, 7), (70, 6), (80, 10), (100, 8), (120, 17)]]

# name -> (trainer, rows, settings)
CASES = {
    "text": ("sft", TEXTS, {}),
    "text_keep_start": ("sft", TEXTS, dict(max_length=10)),
    "text_keep_end": ("sft", TEXTS, dict(max_length=10, truncation_mode="keep_end")),
    "chats": ("sft", CHATS, {}),
    "chats_assistant_only": ("sft", CHATS, dict(assistant_only_loss=True)),
    "chats_assistant_only_keep_end": (
        "sft", CHATS, dict(assistant_only_loss=True, max_length=8, truncation_mode="keep_end")
    ),
    # What is left of a chat has no answer in it: the row is left out.
    "chats_assistant_only_cut": ("sft", CHATS, dict(assistant_only_loss=True, max_length=50)),
    "text_pairs": ("sft", TEXT_PAIRS, dict(max_length=28)),
    "text_pairs_everything": ("sft", TEXT_PAIRS, dict(completion_only_loss=False)),
    "chat_pairs": ("sft", CHAT_PAIRS, {}),
    "chat_pairs_both": ("sft", CHAT_PAIRS, dict(assistant_only_loss=True)),
    "chat_pairs_assistant_only": ("sft", CHAT_PAIRS, dict(assistant_only_loss=True, completion_only_loss=False)),
    "packed_bfd": ("sft", TOKENS, dict(packing=True, max_length=16)),
    "packed_bfd_split": ("sft", TOKENS, dict(packing=True, packing_strategy="bfd_split", max_length=16)),
    "packed_wrapped": ("sft", TOKENS, dict(packing=True, packing_strategy="wrapped", max_length=16)),
    "packed_pairs": ("sft", TEXT_PAIRS, dict(packing=True, max_length=32)),
    "text_preferences": ("dpo", TEXT_PREFERENCES, dict(max_length=28)),
    "implicit": ("dpo", IMPLICIT, {}),
    "chat_preferences": ("dpo", CHAT_PREFERENCES, {}),
    "implicit_chats": ("dpo", IMPLICIT_CHATS, {}),
    "labelled": ("kto", LABELLED, {}),
    "unpaired": ("kto", CHAT_PREFERENCES, {}),
    "text_prompts": ("grpo", TEXT_PROMPTS, {}),
    "chat_prompts": ("grpo", CHAT_PROMPTS, {}),
    "text_rewards": ("reward", TEXT_PREFERENCES, dict(max_length=28)),
    "chat_rewards": ("reward", [{**row, "margin": 0.5} for row in CHAT_PREFERENCES], {}),
    "implicit_rewards": ("reward", IMPLICIT_CHATS, {}),
}

COLUMNS = ["input_ids", "labels", "seq_lengths", "prompt_ids", "chosen_ids", "rejected_ids", "completion_ids", "label", "margin"]


def main():
    cases = {}
    for name, (method, rows, settings) in CASES.items():
        cases[name] = {"trainer": method, "rows": rows, "settings": settings, "prepared": prepared(method, rows, settings)}
    record = provenance(SEED, trl=trl.__version__, datasets=datasets.__version__)
    write("rows", {**record, "model": MODEL, "cases": cases})


def prepared(name, rows, settings):
    if name == "grpo":
        return prompted(rows)
    transformers.set_seed(SEED)
    trainers = {
        "sft": (trl.SFTTrainer, trl.SFTConfig),
        "dpo": (trl.DPOTrainer, trl.DPOConfig),
        "kto": (trl.KTOTrainer, trl.KTOConfig),
        "reward": (trl.RewardTrainer, trl.RewardConfig),
    }
    model = load_classifier(MODEL) if name == "reward" else load(MODEL)
    settings = {"per_device_train_batch_size": 2, "max_length": 1024, **settings}
    with trainer(*trainers[name], model, rows, SEED, settings) as made:
        columns = [column for column in COLUMNS if column in made.train_dataset.column_names]
        return [{column: row[column] for column in columns} for row in made.train_dataset]


def prompted(rows):
    """Ids of the prompts, and what a reward function is given of each row."""
    given = {}

    def reward(prompts, completions, completion_ids, trainer_state, log_extra, log_metric, **columns):
        given.update(prompts=prompts, columns=columns)
        return [0.0] * len(prompts)

    transformers.set_seed(SEED)
    with tempfile.TemporaryDirectory() as output_dir:
        config = trl.GRPOConfig(
            output_dir=output_dir, seed=SEED, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True,
            per_device_train_batch_size=2, num_generations=2,
        )
        dataset = datasets.Dataset.from_list(rows)
        grpo = trl.GRPOTrainer(
            load(MODEL), reward_funcs=reward, args=config, train_dataset=dataset, processing_class=tokenizer(MODEL)
        )
        inputs = list(grpo.train_dataset)
        prompts = [row["prompt"] for row in inputs]
        prompt_ids, _, _ = grpo._tokenize_prompts(prompts)
        grpo._calculate_rewards(inputs, prompts, [""] * len(inputs), [[]] * len(inputs))
    columns = [dict(zip(given["columns"], values)) for values in zip(*given["columns"].values())]
    return [
        {"prompt_ids": ids, "prompt": prompt, "columns": row}
        for ids, prompt, row in zip(prompt_ids, given["prompts"], columns, strict=True)
    ]


if __name__ == "__main__":
    main()
