"""Compiles a grammar for a tokenizer: the same for who checks it and for who answers in it."""

import json
import re
from collections.abc import Collection
from pathlib import Path

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

LIMITS = LLParserLimits(max_lexer_states=100_000, verbose_errors=False)  # about 2 kB for a state

_EXCERPT = re.compile(r"\n +\d+ \| .*", re.DOTALL)
_BAD_REGEX = re.compile(
    r"(?:invalid regex .*)?regex parse error:\n(?P<shown>.*)\nerror: (?P<why>[^\n]*)", re.DOTALL
)


class GrammarError(ValueError):
    """A grammar cannot be used with this model."""


def load_tokenizer(path: Path, vocab_size: int, stop_tokens: Collection[int]) -> LLTokenizer:
    """The tokens that grammars are made of. Where there are many, this takes a second.

    Raises:
        GrammarError: no grammar works with this model.
    """
    if not stop_tokens:
        raise GrammarError(
            "this model names no end token, so that an answer with a grammar could not end; add "
            "eos_token_id to its generation_config.json"
        )
    try:
        text = _with_secret_specials(path.read_text(encoding="utf-8"))
        return LLTokenizer(text, n_vocab=vocab_size, eos_token=sorted(stop_tokens))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GrammarError(f"this model's tokenizer cannot follow a grammar: {error!r}") from error


def _with_secret_specials(text: str) -> str:
    """tokenizer.json with other names for special tokens, so that no text is taken for one.

    Where a grammar leaves one text only, llguidance tokenizes it as the tokenizer would, and
    "<|end|>" in a schema would end the answer. A grammar can still name token 7 as `<[7]>`.
    """
    tokenizer = json.loads(text)
    model, added = tokenizer["model"], tokenizer.get("added_tokens", [])
    secret = {t["content"]: f"\0special token {t['id']}\0" for t in added if t["special"]}
    for token in added:
        token["content"] = secret.get(token["content"], token["content"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {secret.get(piece, piece): id for piece, id in vocabulary.items()}
    else:  # of a unigram model: pieces with their scores, in the order of their ids
        model["vocab"] = [[secret.get(piece, piece), score] for piece, score in vocabulary]
    if "unk_token" in model:
        model["unk_token"] = secret.get(model["unk_token"], model["unk_token"])
    tokenizer["post_processor"] = None  # it names special tokens, and prompts are not our part
    return json.dumps(tokenizer)


def compile_grammar(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """A grammar with all that the first step would have to wait for.

    Raises:
        GrammarError: with the reason.
    """
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
    matcher.compute_bitmask()
    if matcher.is_error():
        raise GrammarError(reason(matcher.get_error()))
    return matcher


def reason(message: str) -> str:
    """What llguidance says, without lines of the grammar and what is for its own developers."""
    said = message.partition("; following special tokens")[0].replace("<non-verbose/>", "")
    said = _EXCERPT.sub("", said).partition(". Enable ")[0]
    return _BAD_REGEX.sub(_in_a_sentence, said).strip()


def _in_a_sentence(bad: re.Match[str]) -> str:
    """A regular expression that is wrong is shown over several lines."""
    shown = bad["shown"].splitlines()[0].strip()
    single = not shown.startswith("~~")
    name = f"the regular expression '{shown[:100]}'" if single else "a regular expression"
    return f"{name} is not valid: {bad['why']}"
