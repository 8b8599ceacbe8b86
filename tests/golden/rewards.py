"""Golden rewards: TRL's reward functions, and JSON against schemas by Python's jsonschema.

`accuracy` holds what Reheat answers alike; `accuracy_departures` holds completions whose answer stands in no formula,
which TRL does not look at, or in the last of several boxes.
"""

import importlib.metadata

import jsonschema
import trl
from trl.rewards import (
    accuracy_reward,
    get_cosine_scaled_reward,
    get_repetition_penalty_reward,
    get_soft_overlong_punishment,
    reasoning_accuracy_reward,
    think_format_reward,
)

from reference import provenance, write

SEED = 0

THINK = [
    "<think>\nThis is my reasoning.\n</think>\nThis is my answer.",
    "<think>\nThis is my reasoning.\nThis is my answer.",
    "<think></think>",
    "<think>a</think>",
    " <think>a</think>b",
    "\n<think>a</think>b",
    "so <think>a</think>b",
    "<think>a<think>b</think>c",
    "<think>a</think>b<think>c</think>",
    "<think>a</think>b</think>c",
    "<think>a\n\nb\n</think>\n\nc\nd",
    "<Think>a</Think>b",
    "</think>b",
    "",
]

# Completion, solution.
ACCURACY = [
    (r"My answer is \boxed{\frac{1}{3}}", r"\frac{1}{3}"),
    (r"My answer is \boxed{\frac{1}{2}}", r"\frac{1}{3}"),
    (r"\boxed{1/3}", r"$\frac{1}{3}$"),
    (r"\boxed{0.25}", r"$\frac14$"),
    (r"\boxed{\dfrac{3}{4}}", "0.75"),
    (r"\boxed{1,234}", "#### 1,234"),
    (r"\boxed{1234}", "#### 1,234"),
    (r"\boxed{1235}", "#### 1,234"),
    (r"\boxed{-3}", "-3"),
    (r"\boxed{3}", "-3"),
    (r"\boxed{50\%}", "0.5"),
    (r"\boxed{50\%}", "50"),
    (r"\boxed{10\text{ cm}}", "10"),
    (r"\boxed{\$10}", "10"),
    (r"\boxed{\$10.50}", "10.5"),
    (r"\boxed{2\sqrt{3}}", r"$\sqrt{12}$"),
    (r"\boxed{2\pi}", r"$2\pi$"),
    (r"\boxed{\pi}", r"$2\pi$"),
    (r"\boxed{2^{10}}", "1024"),
    (r"\boxed{(x+1)^2}", r"$x^2+2x+1$"),
    (r"\boxed{x^2+1}", r"$x^2+2x+1$"),
    (r"\boxed{90^\circ}", "90"),
    (r"\boxed{1000000}", "1000000"),
    (r"\boxed{0.333333}", r"$\frac{1}{3}$"),
    (r"\boxed{0.33}", r"$\frac{1}{3}$"),
    (r"\boxed{(1, 2)}", r"$(1,2)$"),
    (r"\boxed{(2, 1)}", r"$(1,2)$"),
    (r"\boxed{\{1, 2\}}", r"$\{2,1\}$"),
    (r"the final answer is $5$. I hope it is correct.", "$5$"),
    (r"the final answer is $6$. I hope it is correct.", "$5$"),
    ("no idea", "5"),
    ("", "5"),
]

DEPARTURES = [
    ("The answer is 18", "18"),
    ("Steps with 7.\n#### 1,234", "#### 1,234"),
    ("So she makes 18 dollars.", "18"),
    ("18", "18"),
    (r"\boxed{5} no, \boxed{7}", "7"),
    (r"<think>\boxed{4}</think> \boxed{5}", "5"),
]

REASONING = [
    (r"<think> Reasoning </think> The final answer is \boxed{\frac{1}{3}}", r"\frac{1}{3}"),
    (r"<think> Reasoning </think> The final answer is \boxed{\frac{1}{2}}", r"\frac{1}{3}"),
    (r"<think> Partial \boxed{\frac{1}{3}} but no final answer", r"\frac{1}{3}"),
    (r"<think>\boxed{2}</think>\boxed{3}</think>\boxed{4}", "4"),
]

IDS = [[], [1], [1, 2, 3, 4], [5] * 5, [1, 2, 1, 2, 1, 2], list(range(90)), [7] * 100, [7, 8] * 60]

SCHEMAS = [
    (True, [1, None]),
    (False, [1]),
    ({"type": "integer"}, [1, 1.0, 1.5, "1", True, None]),
    ({"type": ["string", "null"]}, ["a", None, 1]),
    ({"type": "number", "minimum": 1, "exclusiveMaximum": 3}, [1, 0.5, 3, 2.99]),
    ({"multipleOf": 0.5}, [1, 1.5, 1.2, "a"]),
    ({"enum": [1, "a", {"b": [1]}]}, [1.0, "a", {"b": [1]}, {"b": [2]}, "1"]),
    ({"const": {"a": 1, "b": 2}}, [{"b": 2, "a": 1}, {"a": 1}]),
    ({"type": "string", "minLength": 2, "maxLength": 3, "pattern": "^é"}, ["éa", "é", "éaaa", "ae"]),
    ({"properties": {"a": {"type": "string"}}, "required": ["a"]}, [{"a": "x"}, {"a": 1}, {}, [], {"a": "x", "b": 1}]),
    ({"properties": {"a": {}}, "additionalProperties": False}, [{"a": 1}, {"a": 1, "b": 2}, {}]),
    (
        {"patternProperties": {"^n": {"type": "number"}}, "additionalProperties": {"type": "string"}},
        [{"n1": 1, "s": "a"}, {"n1": "a"}, {"s": 1}],
    ),
    ({"propertyNames": {"maxLength": 2}}, [{"ab": 1}, {"abc": 1}]),
    ({"minProperties": 1, "maxProperties": 2}, [{}, {"a": 1}, {"a": 1, "b": 1, "c": 1}]),
    ({"items": {"type": "integer"}, "minItems": 1, "maxItems": 2}, [[1], [], [1, 2, 3], [1, "a"]]),
    ({"prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False}, [["a", 1], ["a"], ["a", 1, 2], [1]]),
    ({"contains": {"const": 3}}, [[1, 3], [1, 2], []]),
    ({"uniqueItems": True}, [[1, 2], [1, 1.0], [{"a": 1, "b": 2}, {"b": 2, "a": 1}], ["1", 1]]),
    ({"anyOf": [{"type": "string"}, {"minimum": 5}]}, ["a", 6, 4]),
    ({"oneOf": [{"type": "integer"}, {"minimum": 5}]}, [1, 6, 5.5, 4.5]),
    ({"allOf": [{"type": "integer"}, {"minimum": 5}]}, [5, 4, 5.5]),
    ({"not": {"type": "string"}}, ["a", 1]),
    (
        {"if": {"properties": {"k": {"const": 1}}}, "then": {"required": ["a"]}, "else": {"required": ["b"]}},
        [{"k": 1, "a": 1}, {"k": 1}, {"k": 2, "b": 1}, {"k": 2, "a": 1}],
    ),
    (
        {
            "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["v"]}},
            "$ref": "#/$defs/node",
        },
        [{"v": 1, "next": {"v": 2}}, {"v": 1, "next": {}}, {}],
    ),
]


def main():
    messages = lambda texts: [[{"role": "assistant", "content": text}] for text in texts]
    judged = lambda function, cases: [
        [completion, solution, function(messages([completion]), [solution])[0]] for completion, solution in cases
    ]
    cosine_cases = [(r"\boxed{1}", 0), (r"\boxed{1}", 50), (r"\boxed{2}", 50), (r"\boxed{2}", 0), (r"\boxed{1}", 130)]
    validator = jsonschema.Draft202012Validator
    version = importlib.metadata.version
    values = {
        **provenance(SEED, trl=trl.__version__, math_verify=version("math-verify"), jsonschema=version("jsonschema")),
        "think_format": [[text, think_format_reward(messages([text]))[0]] for text in THINK],
        "accuracy": judged(accuracy_reward, ACCURACY),
        "accuracy_departures": judged(accuracy_reward, DEPARTURES),
        "reasoning_accuracy": judged(reasoning_accuracy_reward, REASONING),
        "repetition": [
            [f"repetition:{size},{penalty}", [[ids, get_repetition_penalty_reward(size, penalty)([ids])[0]] for ids in IDS]]
            for size, penalty in [(3, -1.0), (2, -0.5), (1, -2.0)]
        ],
        "soft_overlong": [
            [f"soft_overlong:{limit},{cache}", [[ids, get_soft_overlong_punishment(limit, cache)([ids])[0]] for ids in IDS]]
            for limit, cache in [(100, 20), (5, 2), (4, 0)]
        ],
        "cosine": [
            ["cosine:100", [[text, count, get_cosine_scaled_reward(100)(messages([text]), ["1"], [[1] * count])[0]] for text, count in cosine_cases]],
            [
                "cosine:80,min_value_wrong=-2,max_value_wrong=-1,min_value_correct=0,max_value_correct=3",
                [
                    [text, count, get_cosine_scaled_reward(80, -2.0, -1.0, 0.0, 3.0)(messages([text]), ["1"], [[1] * count])[0]]
                    for text, count in cosine_cases
                ],
            ],
        ],
        "json_schema": [[schema, [[value, validator(schema).is_valid(value)] for value in found]] for schema, found in SCHEMAS],
    }
    write("rewards", values)


if __name__ == "__main__":
    main()
