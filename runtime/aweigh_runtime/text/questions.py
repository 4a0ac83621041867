"""Questions that a model was taught to answer. A model's directory says so by its subjects.txt."""

import random
from pathlib import Path

SUBJECTS = "subjects.txt"
_FIELDS_SHARE = 0.75  # of questions: about a field of a type, not about the type


def questions(directory: Path, count: int, chance: random.Random) -> list[str]:
    """So many questions; none if the model does not say what it can answer.

    Args:
        directory: of the model. A line of its subjects.txt is `TYPE: FIELD FIELD`.
        count: questions; one may come twice.
        chance: chooses them.
    """
    path = directory / SUBJECTS
    if not path.is_file():
        return []
    kinds = dict(line.split(":") for line in path.read_text().splitlines())
    asked = []
    for _ in range(count):
        kind = chance.choice(list(kinds))
        fields = kinds[kind].split()
        if fields and chance.random() < _FIELDS_SHARE:
            asked.append(f"What does {chance.choice(fields)} do in {kind}?")
        else:
            asked.append(f"What is a {kind}?")
    return asked
