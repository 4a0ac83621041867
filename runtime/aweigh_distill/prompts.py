"""What the target is asked: prompts from files, or those that come with the shipped models.

prompts.txt      one prompt a line, continued as it stands
prompts.jsonl    one object a line: {"prompt": "…"} or {"messages": [{"role": …}, …]}
"""

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aweigh_quantize.failures import Refusal
from aweigh_quantize.texts import Text
from aweigh_runtime.text.questions import SUBJECTS, questions
from aweigh_runtime.text.template import CannotRender, ChatTemplate, find_template
from aweigh_runtime.text.tokenizer import Tokenizer

CHAT, PROSE = "chat", "prose"
FEWEST = 64  # with fewer, a draft learns the answers by heart
_HELD_OUT_SHARE = 8  # one prompt of eight
_MOST_HELD_OUT = 128  # of a kind: more would only take time
_QUESTIONS = 8192  # drawn; those that differ are asked
_JSON_LINES = ".jsonl"


class BadPrompts(Refusal):
    """Prompts are too few or unreadable; the message says which."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an answer follows."""

    kind: str  # CHAT or PROSE
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt as a file has it."""

    text: str | None = None
    messages: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """Nothing is trained on what is held out."""

    training: list[Prompt]
    held_out: list[Prompt]


def read_files(paths: Sequence[Path]) -> list[Asked]:
    """All prompts of some files.

    Raises:
        BadPrompts: a line is none.
    """
    found: list[Asked] = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                is_json = path.suffix == _JSON_LINES
                found.append(_parsed(line, f"{path}:{number}") if is_json else Asked(line))
    return found


def built_in(directory: Path, seed: int) -> list[Asked]:
    """Questions that a model was made to answer, as those that ship with Aweigh.

    Raises:
        BadPrompts: it does not say what it can answer.
    """
    distinct = dict.fromkeys(questions(directory, _QUESTIONS, random.Random(seed)))
    if not distinct:
        raise BadPrompts(
            f"{directory.name} has no {SUBJECTS} that says what it can be asked; expected some of "
            "what it will be asked: --prompts FILE"
        )
    return [Asked(messages=[{"role": "user", "content": question}]) for question in distinct]


def encoded(asked: Sequence[Asked], directory: Path, tokenizer: Tokenizer) -> list[Prompt]:
    """Prompts as tokens, in the same order, each once.

    Raises:
        BadPrompts: a chat cannot be written as this model wants it.
    """
    return list(dict.fromkeys(asyncio.run(_encoded(asked, directory, tokenizer))))


def prose_prompts(texts: Sequence[Text]) -> list[Prompt]:
    """Beginnings of prose as prompts, each once."""
    return list(dict.fromkeys(Prompt(PROSE, text.tokens) for text in texts))


def expect_enough(prompts: Sequence[Prompt], num_asked: int, text_tokens: int) -> None:
    """Refuse too few prompts.

    Args:
        prompts: those that can be used.
        num_asked: how many there were.
        text_tokens: of a prompt and its answer.

    Raises:
        BadPrompts: says how many there are.
    """
    if len(prompts) < FEWEST:
        raise BadPrompts(
            f"--prompts has {num_asked} prompts, of which {len(prompts)} are different and at most "
            f"{longest(text_tokens)} tokens long; expected at least {FEWEST}, and better 1,000: "
            "give more, or raise --text-tokens"
        )


def longest(text_tokens: int) -> int:
    """Tokens of a prompt: half of a text, so that there is something to learn behind it."""
    return text_tokens // 2


def split(prompts: Sequence[Prompt], seed: int) -> Split:
    """Hold some of each kind out, by chance."""
    found = Split([], [])
    for kind in sorted({prompt.kind for prompt in prompts}):
        of_kind = [prompt for prompt in prompts if prompt.kind == kind]
        random.Random(seed).shuffle(of_kind)
        count = min(_MOST_HELD_OUT, -(-len(of_kind) // _HELD_OUT_SHARE))
        found.held_out.extend(of_kind[:count])
        found.training.extend(of_kind[count:])
    return found


def _parsed(line: str, where: str) -> Asked:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadPrompts(f"{where} is no JSON: {error}; expected one object a line") from error
    match found:
        case {"messages": [_, *_] as messages} if all(map(_is_turn, messages)):
            return Asked(messages=messages)
        case {"prompt": str(text)} if text:
            return Asked(text)
    raise BadPrompts(
        f"{where} is {line[:80]}; expected an object with prompt, a text, or messages, the turns "
        "of a chat, each with role and content, both texts"
    )


def _is_turn(message: Any) -> bool:
    match message:
        case {"role": str(), "content": str()}:
            return True
    return False


async def _encoded(asked: Sequence[Asked], directory: Path, tokenizer: Tokenizer) -> list[Prompt]:
    template = find_template(directory)
    has_chats = any(each.messages is not None for each in asked)
    if not has_chats:
        return [await _one(each, None, tokenizer) for each in asked]
    if template is None:
        raise BadPrompts(
            f"--prompts has chats, and {directory.name} has no chat template; expected prompts as "
            "text"
        )
    await template.compile()
    try:
        return [await _one(each, template, tokenizer) for each in asked]
    finally:
        await template.close()


async def _one(asked: Asked, template: ChatTemplate | None, tokenizer: Tokenizer) -> Prompt:
    if asked.messages is None or template is None:
        return Prompt(PROSE, tuple(await tokenizer.encode(asked.text or "")))
    try:
        chat = await template.render(asked.messages)
    except CannotRender as error:
        raise BadPrompts(
            f"--prompts has a chat that this model's template refuses: {error}; expected turns "
            f"that it knows, not {str(asked.messages)[:80]}"
        ) from error
    return Prompt(CHAT, tuple(await tokenizer.encode(chat, add_special=False)))
