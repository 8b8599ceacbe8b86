"""One side of `cargo xtask bench sft`: TRL's SFTTrainer, in its fastest settings on this machine.

Prints one JSON object: the seconds of every step after the warm-up, and the versions.
Memory is measured by the program that starts this one.
"""

import argparse
import json
import tempfile
import time

import datasets
import peft
import torch
import transformers
import trl


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], required=True)
    parser.add_argument("--seq-len", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--warmup", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--lora-r", type=int)
    parser.add_argument("--packing", action="store_true")
    args = parser.parse_args()

    # Full fine-tuning in bf16 as TRL users run it on small machines: weights, gradients and moments in bf16.
    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.model, dtype=getattr(torch, args.dtype), attn_implementation="sdpa"
    )
    rows = datasets.Dataset.from_json(args.rows)
    timer = Timer()
    with tempfile.TemporaryDirectory() as output_dir:
        config = trl.SFTConfig(
            output_dir=output_dir,
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=1,
            max_length=args.seq_len,
            packing=args.packing,
            max_steps=args.warmup + args.steps,
            learning_rate=args.learning_rate,
            gradient_checkpointing=args.gradient_checkpointing,
            train_sampling_strategy="sequential",
            dataloader_pin_memory=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
        # Alpha and dropout as `trl sft --use_peft` has them.
        lora = args.lora_r and peft.LoraConfig(
            r=args.lora_r, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        trainer = trl.SFTTrainer(
            model,
            args=config,
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=lora or None,
            callbacks=[timer],
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    seconds = [after - before for before, after in zip(timer.ends, timer.ends[1:])][args.warmup - 1 :]
    versions = {module.__name__: module.__version__ for module in (torch, transformers, trl, peft)}
    print(json.dumps({"step_seconds": seconds, "losses": losses, "versions": versions}))


class Timer(transformers.TrainerCallback):
    """Notes when each optimizer step is complete."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())


if __name__ == "__main__":
    main()
