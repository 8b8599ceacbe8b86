"""The reward of `cargo xtask bench grpo`: the share of even ids, which random weights give every value of.

Imported by TRL's side; run as a program, it is a reward of Reheat's.
"""

import json
import sys


def share_of_even_ids(completion_ids, **kwargs):
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(share_of_even_ids([one["completion_ids"] for one in json.loads(line)])), flush=True)
