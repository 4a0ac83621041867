import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from aweigh_runtime.text.detokenizer import Detokenizer, UnknownSpelling, Vocabulary
from tests.runtime.text.helmsman import BACKEND

SPECIAL = frozenset(range(6))
VOCABULARY = Vocabulary(BACKEND, SPECIAL)
TOKENS = st.lists(st.integers(0, BACKEND.get_vocab_size() - 1))
BYTES = st.lists(
    st.sampled_from([BACKEND.token_to_id(c) for c in pre_tokenizers.ByteLevel.alphabet()])
)


def deltas(
    tokens: list[int], vocabulary: Vocabulary = VOCABULARY, *, keep_special: bool = False
) -> list[str]:
    detokenizer = Detokenizer(vocabulary, frozenset() if keep_special else vocabulary.special)
    return [*(detokenizer.feed(token) for token in tokens), detokenizer.finish()]


@given(TOKENS | BYTES)
def test_the_deltas_together_are_what_decoding_all_tokens_gives(tokens: list[int]) -> None:
    assert "".join(deltas(tokens)) == BACKEND.decode(tokens, skip_special_tokens=True)


@given(TOKENS)
def test_special_tokens_are_text_for_who_asks_for_it(tokens: list[int]) -> None:
    kept = "".join(deltas(tokens, keep_special=True))
    assert kept == BACKEND.decode(tokens, skip_special_tokens=False)


@given(st.text())
def test_text_survives_the_way_there_and_back(text: str) -> None:
    tokens = BACKEND.encode(text, add_special_tokens=False).ids
    literal = [token for token in tokens if token not in SPECIAL]
    if literal == tokens:
        assert "".join(deltas(tokens)) == text


@pytest.mark.parametrize("text", ["🐳🚢", "naïve café", "日本語", "👩‍👩‍👧", "\U0010ffff"])
def test_no_delta_holds_half_a_character(text: str) -> None:
    tokens = BACKEND.encode(text).ids
    pieces = deltas(tokens)
    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert "" in pieces[:-1]  # a character took several tokens


def test_an_answer_cut_within_a_character_ends_with_a_replacement() -> None:
    tokens = BACKEND.encode("ok 🐳").ids[:-1]
    assert "".join(deltas(tokens)) == "ok \N{REPLACEMENT CHARACTER}"


def test_special_tokens_and_unknown_ids_have_no_text() -> None:
    assert deltas([0, 3, 10**6]) == ["", "", "", ""]


def sentencepiece() -> Backend:
    """Llama 2's kind: ▁ for a space, bytes for what is not in the vocabulary."""
    mark = "\N{LOWER ONE EIGHTH BLOCK}"
    words = ["<unk>", f"{mark}a", f"{mark}ship", "s", mark, "<0xF0>", "<0x9F>", "<0x90>", "<0xB3>"]
    backend = Backend(models.WordLevel({word: id for id, word in enumerate(words)}, "<unk>"))
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(mark, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens([AddedToken("</s>", special=True)])
    return backend


def test_sentencepiece_keeps_the_space_between_prompt_and_answer() -> None:
    backend = sentencepiece()
    prompt, answer = [1], [2, 3, 4, 5, 6, 7, 8, 9]
    whole = backend.decode(prompt + answer, skip_special_tokens=True)
    added = "".join(deltas(answer, Vocabulary(backend, {9})))
    assert added == " ships 🐳"
    assert backend.decode(prompt) + added == whole


def test_an_unknown_spelling_is_refused_by_name() -> None:
    backend = sentencepiece()
    backend.decoder = decoders.WordPiece()
    with pytest.raises(UnknownSpelling, match="WordPiece is not supported"):
        Vocabulary(backend, set())
