"""Structured output with drafts: random grammars and requests through the whole engine."""

import random
import re
import time

import pytest
from llguidance import LLMatcher
from tokenizers import Tokenizer

from aweigh_runtime.engine.grammars import Grammars
from aweigh_runtime.engine.loop import IDLE_TICK_S
from aweigh_runtime.engine.messages import Sampling, Stepped, Submission, Work
from aweigh_runtime.sources.local import builtin
from aweigh_runtime.text.defaults import stop_tokens_of
from tests.runtime.engine.real import answers, real_engine
from tests.runtime.engine.test_exact import decoder
from tests.runtime.engine.test_exact_speculation import EvenSteps, proposer

MODEL = builtin("helmsman-8m")
NUM_BLOCKS, STEP_TOKENS = 40, 96
NUM_REQUESTS = 80
MOST_TOKENS = 40
WORDS = ("Pod", "the node ", "spec", "[a-z]{1,6}", "[0-9]{2,4}", "(yes|no)", "(a|bc)*d", "\\{x\\}")
PROMPTED = (
    "Pod",
    "the node ",
    "spec",
    "yes",
    "no",
    "bcd",
    ", ",
    "{x}",
    "12",
)  # and looked up again
TOKENIZER = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
LATE_S = 300.0


def _pattern(dice: random.Random) -> str:
    parts = [dice.choice(WORDS) for _ in range(dice.randint(1, 3))]
    return "".join(part if dice.random() < 0.4 else f"({part}, ){{5,9}}" for part in parts)


def _submission(id: int, pattern: str, dice: random.Random) -> Submission:
    drawn = Sampling(temperature=1.0, seed=id, seeded=dice.random() < 0.5)
    return Submission(
        id,
        TOKENIZER.encode("".join(dice.choices(PROMPTED, k=dice.randint(1, 30)))).ids,
        MOST_TOKENS,
        sorted(stop_tokens_of(MODEL)),
        dice.choice([Sampling(temperature=0), drawn]),
        grammar=LLMatcher.grammar_from_regex(pattern),
    )


@pytest.mark.parametrize("kind", ["ngram", "draft"])
def test_answers_in_random_grammars_are_of_their_languages_and_leave_no_block(kind: str) -> None:
    dice = random.Random(kind)
    patterns = [_pattern(dice) for _ in range(NUM_REQUESTS)]
    compiler = Grammars(MODEL, decoder().config.vocab_size, stop_tokens_of(MODEL))
    engine = real_engine(
        decoder(),
        NUM_BLOCKS,
        max_running=12,
        step_tokens=STEP_TOKENS,
        speculator=EvenSteps([proposer(kind, NUM_BLOCKS, STEP_TOKENS)], longest=4),
        compiler=compiler,
    )
    reports: list[Stepped] = []
    left = {id for id in range(NUM_REQUESTS) if dice.random() < 0.15}  # whose clients go away
    for id, pattern in enumerate(patterns):
        gone = [id - 3] if id - 3 in left else []
        engine.take(Work([_submission(id, pattern, dice)], gone))
        reports.append(engine.step())
    deadline = time.monotonic() + LATE_S
    while engine.patience_s != IDLE_TICK_S:
        assert time.monotonic() < deadline
        time.sleep(engine.patience_s)
        reports.append(engine.step())
    compiler.close()
    _expect_language(reports, patterns, left)
    counters = reports[-1].counters
    assert 0 < counters.accepted_tokens < counters.drafted_tokens
    pool = engine._scheduler.prefixes.pool
    assert (pool.num_held, pool.available) == (0, NUM_BLOCKS)


def _expect_language(reports: list[Stepped], patterns: list[str], left: set[int]) -> None:
    """Every answer that was not cut short is a whole sentence of its language."""
    found, ends, whole = answers(reports), stop_tokens_of(MODEL), 0
    for id, pattern in enumerate(patterns):
        tokens = found.get(id, [])
        assert id in left or tokens
        if tokens and tokens[-1] in ends:
            text = TOKENIZER.decode(tokens[:-1])
            assert re.fullmatch(pattern, text), (pattern, text)
            whole += 1
        else:
            assert id in left or len(tokens) == MOST_TOKENS
    assert whole > NUM_REQUESTS // 4
