"""Runs the kernels of drafts that stay on the device in Triton's interpreter.

It has to be chosen before they load. Prints, as JSON, what went wrong: nothing as a rule.
"""

import json
import os
from functools import partial

os.environ["TRITON_INTERPRET"] = "1"

from aweigh_kernels import draft_chain
from tests.kernels.draft_cases import cases, unlike


def main() -> None:
    choose = partial(draft_chain.launch_choose, early=False)
    wrong = [
        each for case in cases() for each in unlike(case, draft_chain.launch_follow, choose, "cpu")
    ]
    print(json.dumps(wrong))  # noqa: T201


if __name__ == "__main__":
    main()
