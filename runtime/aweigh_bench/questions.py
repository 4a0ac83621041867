"""What both servers of a pair are asked, one question after another, and how they shall choose."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from aweigh_bench.endpoint import Asking
from aweigh_bench.failures import Impossible
from aweigh_bench.subject import Setting, Subject, model_files
from aweigh_bench.traffic import Ids, Length, Query, random_lengths

Choice = Literal["greedy", "sampled", "seeded"]
"""How tokens are chosen: the likeliest, drawn at temperature 1, or drawn with a seed."""


class Questions:
    """Asked one after another, the same for both servers."""

    def __init__(self, setting: Setting, file: Path | None, prompt: Length) -> None:
        """Find what the model knows.

        Args:
            setting: of the model.
            file: with a question in each line; None: a built-in model's own, if it has some.
            prompt: tokens of random prompts, where nobody knows what to ask.

        Raises:
            Impossible: the file cannot be read, or is empty.
        """
        self._chance = random.Random(setting.seed)
        if file is not None:
            self._known = _read(file)
        else:
            from aweigh_runtime.text.questions import questions

            self._known = questions(model_files(setting), 1000, self._chance)
        self._seed = setting.seed
        self._prompt = prompt
        self._ids = Ids(setting.seed, setting.vocabulary)

    @property
    def chats(self) -> bool:
        """False: nobody knows what to ask this model, and prompts are random."""
        return bool(self._known)

    def draw(self, count: int, output_tokens: int) -> list[Query]:
        """The next ones, with the most tokens of an answer."""
        if not self._known:
            return list(random_lengths(self._ids, count, self._prompt, (output_tokens,) * 2))
        return [Query(self._chance.choice(self._known), output_tokens) for _ in range(count)]

    def asking(self, served: Subject, choice: Choice) -> Asking:
        """How a server is asked for answers of which tokens are chosen so."""
        drawn: dict[str, Any] = {} if choice == "greedy" else {"temperature": 1.0}
        if choice == "seeded":
            drawn["seed"] = self._seed
        asking = replace(served.asking, **drawn)
        if not self._known:
            return asking  # completions that go on past every end
        return replace(asking, route="chat", ignore_eos=False)


def _read(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Impossible(f"--questions is {path}, which cannot be read: {error}") from error
    if found := [line for line in lines if line.strip()]:
        return found
    raise Impossible(f"--questions is {path}, which is empty; expected a question in each line")
