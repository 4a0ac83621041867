"""What the target writes: beginnings of prose, answers to train on, answers to measure with.

Writing takes longest of all, so it is kept piece by piece: a run that is killed writes again what
it has written last.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from aweigh_distill.prompts import Prompt, Split, longest, prose_prompts, split
from aweigh_distill.recipe import Recipe
from aweigh_distill.state import State
from aweigh_quantize.calibration import Stored, as_json, first_token, texts_of
from aweigh_quantize.display import Display
from aweigh_quantize.generation import Manner, generate
from aweigh_quantize.texts import Text
from aweigh_runtime.model.decoder import Decoder
from aweigh_runtime.text.defaults import stop_tokens_of

_PIECE = 512  # texts that are kept together
_BEGUN_TOKENS = 24  # of a prose prompt
_HELD_OUT_SEED = 1_000_003  # added: held-out answers are drawn with other numbers


@dataclass(frozen=True, slots=True)
class Texts:
    """Answers of the target."""

    training: list[Text]
    kinds: list[str]  # of the held-out prompts
    drawn: list[Text]  # held-out answers at temperature 1
    greedy: list[Text]  # the likeliest ones to the same prompts


def texts(
    target: Decoder,
    directory: Path,
    prompts: Sequence[Prompt],
    recipe: Recipe,
    state: State,
    display: Display,
) -> Texts:
    """All that the target writes, or has written for the same job.

    Args:
        target: the model.
        directory: of it.
        prompts: to be answered; none is held out yet.
        recipe: how much; with `beginnings` it goes on with prose of its own, too.
        state: keeps it.
        display: told of each text.

    Raises:
        CannotWrite: there is no room.
    """
    writer = _Writer(target, state, display)
    stop_tokens = stop_tokens_of(directory)
    asked, free = split(prompts, recipe.seed), Split([], [])
    if recipe.beginnings:
        display.begin("beginnings of prose", recipe.beginnings)
        manner = Manner(min(_BEGUN_TOKENS, longest(recipe.text_tokens)), recipe.seed)
        start = first_token(directory, stop_tokens) or 0
        begun = writer.write("beginnings", [[start]] * recipe.beginnings, manner)
        free = split(prose_prompts(begun), recipe.seed)
    held_out = asked.held_out + free.held_out
    total = len(asked.training) * recipe.answers + len(free.training) + 2 * len(held_out)
    display.begin("answers of the target", total)

    def answers(name: str, prompts: Sequence[Prompt], manner: Manner) -> list[Text]:
        return writer.write(name, [prompt.tokens for prompt in prompts], manner)

    drawn = Manner(recipe.text_tokens, recipe.seed, stop_tokens=stop_tokens)
    greedy = replace(drawn, greedy=True)
    training = answers("likeliest", asked.training, greedy)
    for turn in range(1, recipe.answers):
        turned = replace(drawn, seed=recipe.seed + turn)
        training += answers(f"drawn-{turn}", asked.training, turned)
    prose = replace(drawn, seed=recipe.seed + recipe.answers)
    training += answers("prose", free.training, prose)
    measured = replace(drawn, seed=recipe.seed + _HELD_OUT_SEED)
    return Texts(
        training,
        [prompt.kind for prompt in held_out],
        answers("held-out-drawn", held_out, measured),
        answers("held-out-likeliest", held_out, greedy),
    )


class _Writer:
    """Writes texts in pieces, each of them once."""

    def __init__(self, target: Decoder, state: State, display: Display) -> None:
        self._target = target
        self._state = state
        self._display = display
        self._written = 0  # pieces

    def write(self, name: str, prompts: Sequence[Sequence[int]], manner: Manner) -> list[Text]:
        """Continue every prompt; `name` is that of the files."""
        found: list[Text] = []
        for first in range(0, len(prompts), _PIECE):
            piece = prompts[first : first + _PIECE]
            write = partial(self._write, piece, replace(manner, first=first))
            before = self._written
            found += texts_of(self._state.remembered(f"{name}-{first // _PIECE:03}", write))
            if self._written == before:  # it was there
                for _ in piece:
                    self._display.advance()
        return found

    def _write(self, prompts: Sequence[Sequence[int]], manner: Manner) -> Stored:
        self._written += 1
        return as_json(generate(self._target, prompts, manner, self._display.advance))
