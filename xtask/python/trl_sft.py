"""One side of `cargo xtask bench sft`: TRL's SFTTrainer, in its fastest settings on this machine.

Prints one JSON object: the seconds of every step after the warm-up, and the versions.
"""

import json
import tempfile
import time

import datasets
import peft
import transformers
import trl
import trl_run


def main():
    parser = trl_run.parser()
    parser.add_argument("--seq-len", type=int, required=True)
    parser.add_argument("--lora-r", type=int)
    parser.add_argument("--packing", action="store_true")
    args = parser.parse_args()

    model, tokenizer = trl_run.load(args)
    rows = datasets.Dataset.from_json(args.rows)
    timer = Timer()
    with tempfile.TemporaryDirectory() as output_dir:
        config = trl.SFTConfig(
            **trl_run.settings(args, output_dir),
            per_device_train_batch_size=1,
            max_length=args.seq_len,
            packing=args.packing,
            train_sampling_strategy="sequential",
        )
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
    print(json.dumps({"step_seconds": seconds, "losses": losses, "versions": trl_run.versions(trl, peft)}))


class Timer(transformers.TrainerCallback):
    """Notes when each optimizer step is complete."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())


if __name__ == "__main__":
    main()
