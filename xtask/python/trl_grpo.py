"""One side of `cargo xtask bench grpo`: TRL's GRPOTrainer, in its fastest settings on this machine.

Prints one JSON object: the seconds of every step after the warm-up and what of them was generation, the tokens that
were drawn and trained on, and the versions.
"""

import json
import tempfile
import time

import datasets
import transformers
import trl
import trl_run
from share_of_even_ids import share_of_even_ids


def main():
    parser = trl_run.parser()
    parser.add_argument("--num-prompts", type=int, required=True)
    parser.add_argument("--num-generations", type=int, required=True)
    parser.add_argument("--micro-batch-size", type=int, required=True)
    parser.add_argument("--max-completion-length", type=int, required=True)
    args = parser.parse_args()

    model, tokenizer = trl_run.load(args)
    rows = datasets.Dataset.from_json(args.rows)
    timer = Timer()
    with tempfile.TemporaryDirectory() as output_dir:
        config = trl.GRPOConfig(
            **trl_run.settings(args, output_dir),
            per_device_train_batch_size=args.micro_batch_size,
            gradient_accumulation_steps=args.num_prompts * args.num_generations // args.micro_batch_size,
            num_generations=args.num_generations,
            max_completion_length=args.max_completion_length,
            shuffle_dataset=False,
        )
        trainer = trl.GRPOTrainer(
            model,
            reward_funcs=share_of_even_ids,
            args=config,
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=[timer],
        )
        timer.watch(trainer)
        trainer.train()
    print(json.dumps({"steps": timer.steps()[args.warmup :], "versions": trl_run.versions(trl)}))


class Timer(transformers.TrainerCallback):
    """Notes how long each optimizer step took, what of it was generation, and its tokens."""

    def __init__(self):
        self.begin = time.perf_counter()
        self.ends, self.generation, self.generated, self.trained = [], [0.0], [0], [0]

    def watch(self, trainer):
        inner = trainer._generate

        def generate(prompts):
            started = time.perf_counter()
            result = inner(prompts)
            self.generation[-1] += time.perf_counter() - started
            prompt_ids, completion_ids = result[0], result[1]
            self.generated[-1] += sum(map(len, completion_ids))
            self.trained[-1] += sum(map(len, prompt_ids)) + sum(map(len, completion_ids))
            return result

        trainer._generate = generate

    def on_train_begin(self, args, state, control, **kwargs):
        self.begin = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())
        for values in (self.generation, self.generated, self.trained):
            values.append(type(values[-1])(0))

    def steps(self):
        return [
            {
                "seconds": end - begin,
                "generation_seconds": generation,
                "generated_tokens": generated,
                "trained_tokens": trained,
            }
            for begin, end, generation, generated, trained in zip(
                [self.begin, *self.ends], self.ends, self.generation, self.generated, self.trained
            )
        ]


if __name__ == "__main__":
    main()
