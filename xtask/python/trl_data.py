"""One side of `cargo xtask bench data`: what TRL's SFTTrainer does to a dataset before training, on all cores.

Prints one JSON object: the seconds of the preparation, how many tokens came out of it, and the versions.
Memory is measured by the program that starts this one.
"""

import argparse
import json
import os
import tempfile
import time

import datasets
import transformers
import trl


ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


def to_messages(row):
    return {"messages": [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in row["conversations"]]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="any small model: the trainer wants one")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--max-length", type=int, required=True)
    args = parser.parse_args()

    datasets.disable_progress_bars()
    seconds = {}
    cores = os.cpu_count()
    prepare = trl.SFTTrainer._prepare_dataset

    def timed(self, *rest, **named):
        start = time.perf_counter()
        prepared = prepare(self, *rest, **named)
        seconds["prepare"] = time.perf_counter() - start
        return prepared

    trl.SFTTrainer._prepare_dataset = timed
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        rows = datasets.load_dataset("json", data_files=args.rows, split="train", cache_dir=folder)
        # ShareGPT's keys and roles are not TRL's; this is how its users convert them.
        rows = rows.map(to_messages, remove_columns=["conversations"], num_proc=cores)
        seconds["load_and_convert"] = time.perf_counter() - start
        config = trl.SFTConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            max_length=args.max_length,
            assistant_only_loss=True,
            dataset_num_proc=cores,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = trl.SFTTrainer(
            transformers.AutoModelForCausalLM.from_pretrained(args.model),
            args=config,
            train_dataset=rows,
            processing_class=transformers.AutoTokenizer.from_pretrained(args.tokenizer),
        )
        prepared = trainer.train_dataset
        tokens = sum(len(ids) for ids in prepared["input_ids"])
        trained = sum(sum(label != -100 for label in labels[1:]) for labels in prepared["labels"])
    modules = (transformers, trl, datasets)
    versions = {module.__name__: module.__version__ for module in modules}
    versions["tokenizers"] = __import__("tokenizers").__version__
    print(json.dumps({"seconds": seconds, "tokens": tokens, "trained_tokens": trained, "versions": versions}))


if __name__ == "__main__":
    main()
