"""What is asked, and when. Pure: everything comes from one seed, so two servers get the same.

Prompts are lists of token ids. `Words` turns them into text for endpoints that take no ids.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aweigh_bench.failures import Impossible

FIRST_ID = 256  # below, many vocabularies keep bytes and special tokens
CHARACTERS_PER_TOKEN = 4.0  # of English, for answers of a ShareGPT file
# Log-normal lengths whose means, 163 and 330 tokens, are close to what is published for ShareGPT.
PROMPT_MEDIAN, PROMPT_SIGMA = 70.0, 1.3
ANSWER_MEDIAN, ANSWER_SIGMA = 200.0, 1.0
SHORTEST, LONGEST = 4, 1024  # tokens; other conversations are left out, as in `vllm bench serve`

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"

Length = tuple[int, int]  # least and most tokens


@dataclass(frozen=True, slots=True)
class Query:
    """One request to come."""

    prompt: list[int] | str
    max_tokens: int


class Ids:
    """Random prompts as token ids."""

    def __init__(self, seed: int, vocabulary: int) -> None:
        if vocabulary <= FIRST_ID:
            raise Impossible(
                f"--vocabulary is {vocabulary}; expected more than {FIRST_ID}, the first id used"
            )
        self.random = random.Random(seed)
        self._vocabulary = vocabulary

    def draw(self, count: int) -> list[int]:
        """`count` token ids."""
        return self.random.choices(range(FIRST_ID, self._vocabulary), k=count)


class Words:
    """Text of about as many tokens as there are ids, once it is known how long its words are."""

    def __init__(self, tokens_per_word: float = 1.0) -> None:
        self._tokens_per_word = tokens_per_word

    def text(self, ids: list[int]) -> str:
        """One word for each id, or fewer where a word takes several tokens."""
        count = max(1, round(len(ids) / self._tokens_per_word))
        return " ".join(_word(each) for each in ids[:count])


def random_lengths(ids: Ids, count: int, prompt: Length, answer: Length) -> Iterator[Query]:
    """Prompts that share nothing, of evenly distributed lengths."""
    for _ in range(count):
        yield Query(ids.draw(ids.random.randint(*prompt)), ids.random.randint(*answer))


def shared_prefix(
    ids: Ids, count: int, num_prefixes: int, prefix: int, suffix: int, answer: Length
) -> Iterator[Query]:
    """Prompts that begin with one of a few prefixes, in random order, and end differently."""
    prefixes = [ids.draw(prefix) for _ in range(num_prefixes)]
    for _ in range(count):
        prompt = [*ids.random.choice(prefixes), *ids.draw(suffix)]
        yield Query(prompt, ids.random.randint(*answer))


def sharegpt_like(ids: Ids, count: int, max_model_len: int | None) -> Iterator[Query]:
    """Lengths as in conversations between people and assistants, drawn from two log-normals."""
    longest = LONGEST if max_model_len is None else max(SHORTEST, min(LONGEST, max_model_len // 2))
    for _ in range(count):
        prompt = _log_normal(ids.random, PROMPT_MEDIAN, PROMPT_SIGMA, longest)
        yield Query(ids.draw(prompt), _log_normal(ids.random, ANSWER_MEDIAN, ANSWER_SIGMA, longest))


def sharegpt(path: Path, seed: int, count: int) -> list[Query]:
    """First question and length of the first answer of conversations in a ShareGPT file.

    Raises:
        Impossible: the file is not such a file, or holds no conversation of a usable length.
    """
    usable = list(_conversations(path))
    if not usable:
        raise Impossible(
            f"{path} holds no conversation of {SHORTEST} to {LONGEST} tokens; expected a list of "
            'objects with "conversations", each with "from" and "value"'
        )
    return random.Random(seed).choices(usable, k=count)


def arrivals(seed: int, count: int, rate: float | None, burstiness: float) -> Iterator[float]:
    """Seconds from the start at which requests arrive.

    Gaps follow a gamma distribution of mean 1 / rate; burstiness is its shape: 1 is a Poisson
    process, below 1 requests come in bursts, above 1 more evenly. Without a rate all come at once.
    """
    source, now_s = random.Random(seed), 0.0
    for _ in range(count):
        yield now_s
        if rate is not None:
            now_s += source.gammavariate(burstiness, 1 / (rate * burstiness))


def as_text(queries: Iterator[Query], words: Words) -> Iterator[Query]:
    """The same requests for an endpoint that takes text only."""
    for query in queries:
        prompt = query.prompt if isinstance(query.prompt, str) else words.text(query.prompt)
        yield Query(prompt, query.max_tokens)


def _log_normal(source: random.Random, median: float, sigma: float, longest: int) -> int:
    drawn = median * source.lognormvariate(0.0, sigma)
    return int(min(max(drawn, SHORTEST), longest))


def _conversations(path: Path) -> Iterator[Query]:
    for entry in _entries(path):
        turns = entry.get("conversations") if isinstance(entry, dict) else None
        if not isinstance(turns, list) or len(turns) < 2:
            continue
        question, answer = (_value(turn) for turn in turns[:2])
        lengths = [round(len(text) / CHARACTERS_PER_TOKEN) for text in (question, answer)]
        if all(SHORTEST <= length <= LONGEST for length in lengths):
            yield Query(question, lengths[1])


def _entries(path: Path) -> list[Any]:
    try:
        entries = json.loads(path.read_bytes())
    except OSError as error:
        raise Impossible(f"cannot read {path}: {error.strerror}; expected a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise Impossible(f"{path} is not JSON ({error}); expected a ShareGPT file") from error
    return entries if isinstance(entries, list) else []


def _value(turn: Any) -> str:
    value = turn.get("value") if isinstance(turn, dict) else None
    return value if isinstance(value, str) else ""


def _word(number: int) -> str:
    """Two to four syllables that name an id."""
    base = len(_CONSONANTS) * len(_VOWELS)
    syllables: list[str] = []
    while number or len(syllables) < 2:
        number, rest = divmod(number, base)
        consonant, vowel = divmod(rest, len(_VOWELS))
        syllables.append(_CONSONANTS[consonant] + _VOWELS[vowel])
    return "".join(syllables)
