"""One answer against what its tokens give at once: text, log-probabilities, where it ends."""

from dataclasses import dataclass

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from aweigh_runtime.engine.messages import FinishReason, Output, TokenLogprobs
from aweigh_runtime.server.openai.choice import Choice, Delta, Token
from aweigh_runtime.server.openai.requests import CompletionRequest
from aweigh_runtime.server.openai.submissions import Prompt
from aweigh_runtime.text.growing import GrowingText
from aweigh_runtime.text.stops import StopFinder
from tests.runtime.text.helmsman import BACKEND, TOKENIZER

END = 3
NO_ECHO = Prompt([])
WORDS = [BACKEND.encode(word, add_special_tokens=False).ids for word in ("aba", "ab", " b", "🐳é")]
TOKENS_OF: dict[str, int] = BACKEND.get_vocab()
ANSWERS = st.lists(st.sampled_from([*WORDS, [1], [END]]), max_size=12).map(
    lambda words: [token for word in words for token in word]
)
STOPS = st.lists(st.sampled_from(["a", "ba", "bab", "b b", "🐳"]))


@dataclass(frozen=True)
class Case:
    tokens: list[int]
    sizes: list[int]  # tokens of each step
    asked: CompletionRequest
    finish: FinishReason

    def outputs(self) -> list[Output]:
        outputs, rest = [], self.tokens
        for size in [*self.sizes, len(self.tokens)]:
            step, rest = rest[:size], rest[size:]
            logprobs = [TokenLogprobs(-token / 100, 1, []) for token in step]
            outputs.append(Output(1, step, None, logprobs))
            if not rest:
                break
        return [*outputs[:-1], msgspec.structs.replace(outputs[-1], finish=self.finish)]

    def choice(self, prompt: Prompt = NO_ECHO, *, whole_tokens: bool = False) -> Choice:
        stops = StopFinder(self.asked.stops, keep=bool(self.asked.include_stop_str_in_output))
        text = GrowingText(TOKENIZER.detokenizer(), stops, self.asked.min_tokens or 0)
        return Choice(0, prompt, self.asked, text, whole_tokens=whole_tokens)

    def run(self, prompt: Prompt = NO_ECHO) -> tuple[Choice, list[Delta]]:
        choice = self.choice(prompt)
        return choice, [choice.advance(output) for output in self.outputs()]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    finish: FinishReason = draw(st.sampled_from(["stop", "length"]))
    tokens = draw(ANSWERS) + ([END] if finish == "stop" else [draw(st.sampled_from(WORDS))[0]])
    sizes = draw(st.lists(st.integers(1, 3), max_size=len(tokens)))
    asked = CompletionRequest(
        model="m",
        prompt="",
        stop=draw(STOPS),
        include_stop_str_in_output=draw(st.booleans()),
        min_tokens=draw(st.sampled_from([None, 2])),
        logprobs=0,
    )
    return Case(tokens, sizes, asked, finish)


def expected(case: Case) -> tuple[str, FinishReason, int]:
    """Text, ending and number of tokens that count, by decoding each beginning anew."""
    keep = case.asked.include_stop_str_in_output
    unsearched = _decoded(case.tokens[: case.asked.min_tokens or 0]).rstrip("\ufffd")
    for number in range(len(case.tokens) + 1):
        last = number == len(case.tokens)
        text = _decoded(case.tokens[:number])
        if not last:
            text = text.rstrip("\ufffd")  # a character that is not complete yet
        begins = len(unsearched)
        spans = [
            (at, at + len(stop))
            for stop in case.asked.stops
            if (at := text.find(stop, begins)) >= 0
        ]
        if spans and number > (case.asked.min_tokens or 0):
            begin, end = min(spans)
            return text[: end if keep else begin], "stop", number
    return text, case.finish, len(case.tokens)


def _decoded(tokens: list[int]) -> str:
    return BACKEND.decode(tokens, skip_special_tokens=True)


@given(cases())
def test_the_pieces_of_an_answer_are_the_answer(case: Case) -> None:
    choice, deltas = case.run()
    text, finish, num_tokens = expected(case)
    assert "".join(delta.text for delta in deltas) == text
    assert choice.finish == finish
    assert choice.num_tokens == num_tokens
    assert [delta.finish for delta in deltas if delta.finish] == [finish]


@given(cases(), st.lists(st.integers(1, 3)))
def test_how_tokens_come_in_steps_changes_nothing(case: Case, sizes: list[int]) -> None:
    def joined(deltas: list[Delta]) -> tuple[str, list[Token]]:
        tokens = [token for delta in deltas for token in delta.tokens]
        return "".join(delta.text for delta in deltas), tokens

    other = Case(case.tokens, sizes, case.asked, case.finish)
    assert joined(case.run()[1]) == joined(other.run()[1])


@given(cases())
def test_log_probabilities_stand_beside_the_text_that_is_out(case: Case) -> None:
    _, deltas = case.run()
    text, shown = "", 0
    for delta in deltas:
        text += delta.text
        for token in delta.tokens:
            assert token.id == case.tokens[shown]
            assert token.logprobs is not None
            assert token.logprobs.logprob == -token.id / 100
            assert token.offset <= len(text)
            shown += 1
    begins = [token.offset for delta in deltas for token in delta.tokens]
    assert begins == sorted(begins)
    if deltas[-1].finish == "length" and not case.asked.stops:
        assert shown == len(case.tokens)


def test_tokens_whose_text_a_stop_string_cuts_are_cut_too() -> None:
    tokens = [TOKENS_OF[c] for c in "abcd"] + [END]
    asked = CompletionRequest(model="m", prompt="", stop="cd", logprobs=0)
    _, deltas = Case(tokens, [1, 1, 1, 1], asked, "stop").run()
    assert "".join(delta.text for delta in deltas) == "ab"
    assert [token.id for delta in deltas for token in delta.tokens] == tokens[:2]


def test_the_token_that_ends_an_answer_is_shown_to_who_keeps_it() -> None:
    tokens = [TOKENS_OF["a"], TOKENS_OF["b"]]
    for keep, text in ((False, "a"), (True, "ab")):
        asked = CompletionRequest(model="m", prompt="", include_stop_str_in_output=keep, logprobs=0)
        choice, deltas = Case(tokens, [1], asked, "stop").run()
        assert "".join(delta.text for delta in deltas) == text
        assert sum(len(delta.tokens) for delta in deltas) == len(text)
        assert choice.num_tokens == 2


@given(cases())
def test_an_echo_comes_first_and_shifts_the_offsets(case: Case) -> None:
    prompt = Prompt([5, 6, 7], ["", "xa", "b"])
    beside = [None, TokenLogprobs(-1, 1, []), TokenLogprobs(-2, 1, [])]
    first, *others = case.outputs()
    first = msgspec.structs.replace(first, prompt_logprobs=beside, cached_tokens=2)
    choice = case.choice(prompt)
    deltas = [choice.advance(output) for output in (first, *others)]
    plain = case.run()[1]
    assert "".join(d.text for d in deltas) == "xab" + "".join(d.text for d in plain)
    tokens = [token for delta in deltas for token in delta.tokens]
    assert [(t.id, t.offset) for t in tokens[:3]] == [(5, 0), (6, 0), (7, 2)]
    assert [t.logprobs for t in tokens[:3]] == beside
    shifted = [(t.id, t.offset + 3) for delta in plain for t in delta.tokens]
    assert [(t.id, t.offset) for t in tokens[3:]] == shifted
    assert choice.cached_tokens == 2


@given(cases(), st.booleans())
def test_another_choice_goes_on_after_any_delta_that_shows(case: Case, logprobs: bool) -> None:
    """It is told the tokens behind what is out, whatever of them was held back."""
    choice = case.choice(whole_tokens=logprobs)
    deltas = [choice.advance(output) for output in case.outputs()]
    whole = joined(deltas, logprobs=logprobs)
    for number in range(len(deltas)):
        seen = deltas[:number]
        if seen and not (seen[-1].text or (logprobs and seen[-1].tokens)):
            continue
        known = [id for delta in seen for id in delta.ids]
        at_end = len(known) == len(case.tokens)
        ends = {END} if at_end and case.finish == "stop" else set()
        limit = len(case.tokens) + (case.finish == "stop")
        other = case.choice(whole_tokens=logprobs)
        told = other.go_on(known, ends, limit)
        assert told.text == "".join(delta.text for delta in seen)
        rest = []
        if other.finish is None:
            left = case.tokens[len(known) :]
            beside = [TokenLogprobs(-token / 100, 1, []) for token in left]
            rest = [other.advance(Output(2, left, case.finish, beside))]
        assert other.finish == choice.finish
        assert other.num_tokens == choice.num_tokens
        assert joined([*seen, *rest], logprobs=logprobs) == whole


def joined(deltas: list[Delta], *, logprobs: bool) -> tuple[str, list[Token]]:
    tokens = [token for delta in deltas for token in delta.tokens] if logprobs else []
    return "".join(delta.text for delta in deltas), tokens
