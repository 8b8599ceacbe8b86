"""What the programs that run a trainer of TRL beside Reheat have in common: arguments, model, settings, versions.

Memory is measured by the program that starts them.
"""

import argparse

import torch
import transformers


def parser():
    """The arguments that all of them take."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--warmup", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    return parser


def load(args):
    """The model and its tokenizer. Weights, gradients and moments have one type, as on small machines."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        args.model, dtype=getattr(torch, args.dtype), attn_implementation="sdpa"
    )
    return model, transformers.AutoTokenizer.from_pretrained(args.model)


def settings(args, output_dir):
    """The settings of a run that trains, says nothing, and leaves nothing."""
    return dict(
        output_dir=output_dir,
        use_cpu=True,
        bf16=False,
        max_steps=args.warmup + args.steps,
        learning_rate=args.learning_rate,
        gradient_checkpointing=args.gradient_checkpointing,
        dataloader_pin_memory=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def versions(*modules):
    """The versions of torch, transformers and others."""
    return {module.__name__: module.__version__ for module in (torch, transformers, *modules)}
