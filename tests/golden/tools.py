"""Golden tool calls: the ids and loss masks of TRL's `GRPOTrainer._tool_call_loop` for turns that are given.

The loop is TRL's own; only the sampler is replaced, by one that says the turns of each row in their order.
"""

import sys
from types import SimpleNamespace

import transformers
import trl
from trl.chat_template_utils import parse_response
from trl.chat_template_utils import qwen3_template as response_template
from trl.trainer.grpo_trainer import GRPOTrainer

from reference import FIXTURES, provenance, write

SEED = 0
MAX_COMPLETION_LENGTH = 330

TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\nCall tools as <tool_call>\\n{"name": …, "arguments": …}\\n</tool_call>' }}
    {%- for tool in tools %}{{- '\\n' + tool | tojson }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>\\n' + call.function | tojson + '\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def call(name, arguments):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


END = "<|im_end|>"
# Of each row the turns, of which the loop asks for as many as it wants.
ROWS = [
    [call("add", '{"a": 1, "b": 2}') + END, "It is 3." + END],
    ["I know that without." + END],
    ["Let me see.\n" + call("nope", "{}") + END, call("add", '{"a": 2, "b": 2}') + END, "4" + END],
    [call("fail", "{}") + END, "It failed." + END],
    [call("add", '{"a": 1, "b": 1}') + "\n" + call("add", '{"a": 5, "b": 6}') + END, "2 and 11." + END],
    # What the tool says leaves no room.
    [call("long", '{"count": 300}') + END, "never said" + END],
    # The next turn is cut.
    [call("long", '{"count": 60}') + END, "x" * 300 + END],
    # Cut before it could call.
    ["y" * MAX_COMPLETION_LENGTH],
    ["<tool_call>\nnot JSON\n</tool_call>" + END],
]


def add(a: int, b: int):
    """The sum.

    Args:
        a: one.
        b: another.
    """
    return a + b


def fail():
    """Fails."""
    raise ValueError("out of order")


def long(count: int):
    """Many letters.

    Args:
        count: how many.
    """
    return "z" * count


def run(max_iterations):
    tokenizer = transformers.AutoTokenizer.from_pretrained(FIXTURES / "tied-grouped")
    tokenizer.chat_template = TEMPLATE
    tokenizer.response_template = response_template
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    prompts = [[{"role": "user", "content": f"Question {index}?"}] for index in range(len(ROWS))]
    render = lambda messages: tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    prompt_ids = [render(prompt) for prompt in prompts]
    said = [1] * len(ROWS)

    def generate(ids, *_args, **_kwargs):
        turns = []
        for one in ids:
            row = next(index for index, prompt in enumerate(prompt_ids) if one[: len(prompt)] == prompt)
            turns.append(encode(ROWS[row][said[row]])[:MAX_COMPLETION_LENGTH])
            said[row] += 1
        return turns, None

    completion_ids = [encode(turns[0])[:MAX_COMPLETION_LENGTH] for turns in ROWS]
    completions = [[parse_response(tokenizer, ids, prefix=prompt_ids[i], tools=None)] for i, ids in enumerate(completion_ids)]
    tools = {"add": add, "fail": fail, "long": long}
    trainer = GRPOTrainer.__new__(GRPOTrainer)
    vars(trainer).update(
        max_tool_calling_iterations=max_iterations or sys.maxsize,
        max_completion_length=MAX_COMPLETION_LENGTH,
        processing_class=tokenizer,
        _tokenizer=tokenizer,
        chat_template=None,
        chat_template_kwargs={},
        tools=list(tools.values()),
        environment_factories=None,
        use_vllm=False,
        vllm_mode=None,
        _is_vlm=False,
        _sync_tool_dicts=[tools] * len(ROWS),
        _async_tool_dicts=[{}] * len(ROWS),
        model=SimpleNamespace(config=SimpleNamespace(max_position_embeddings=4096)),
        _generate_single_turn=generate,
    )
    mask, completions, ids, _, calls, failures, _ = trainer._tool_call_loop(
        prompts, prompt_ids, completion_ids, completions, None, None, {}
    )
    rows = [
        {
            "prompt_ids": prompt,
            "turns": [encode(turn)[:MAX_COMPLETION_LENGTH] for turn in turns],
            "ids": own,
            # Runs of ones and zeros, beginning with ones.
            "mask_runs": runs(own_mask),
            "roles": [message["role"] for message in messages],
        }
        for prompt, turns, own, own_mask, messages in zip(prompt_ids, ROWS, ids, mask, completions)
    ]
    return {"max_tool_calling_iterations": max_iterations, "calls": calls, "failures": failures, "rows": rows}


def runs(mask):
    lengths, value = [0], 1
    for one in mask:
        if one != value:
            lengths.append(0)
            value = one
        lengths[-1] += 1
    return lengths


def main():
    write(
        "tools",
        {
            **provenance(SEED, trl=trl.__version__),
            "template": TEMPLATE,
            "max_completion_length": MAX_COMPLETION_LENGTH,
            "cases": [run(None), run(1)],
        },
    )


if __name__ == "__main__":
    main()
