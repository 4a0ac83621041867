"""The process that compiles clients' grammars: `python -m aweigh_runtime.text.grammar_worker`.

It does what the engine will do with one, up to the first token, so that whatever goes wrong goes
wrong here: llguidance bounds its own work, this process its memory, the parent its time.
"""

import resource
from pathlib import Path

import msgspec
from llguidance import LLTokenizer

from aweigh_runtime.child import channel_to_parent
from aweigh_runtime.text.grammar_compiler import GrammarError, compile_grammar, load_tokenizer
from aweigh_runtime.text.grammar_messages import Check, Checked, Prepare
from aweigh_runtime.wire import Channel

MEMORY_BYTES = 2 << 30  # a vocabulary of 256k tokens takes a quarter of that


def main() -> None:
    """Answer the parent until it closes its end."""
    channel = channel_to_parent()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        _work(channel)
    except EOFError:
        return


def _work(channel: Channel) -> None:
    model = msgspec.msgpack.decode(channel.receive(), type=Prepare)
    tokenizer = _tokenizer(model)
    channel.send(Checked(None if isinstance(tokenizer, LLTokenizer) else tokenizer))
    while True:
        check = msgspec.msgpack.decode(channel.receive(), type=Check)
        channel.send(Checked(_problem(tokenizer, check.grammar)))


def _tokenizer(model: Prepare) -> LLTokenizer | str:
    """Or why there is none, which is then the answer to every check."""
    try:
        return load_tokenizer(Path(model.tokenizer), model.vocab_size, model.end_tokens)
    except GrammarError as error:
        return str(error)


def _problem(tokenizer: LLTokenizer | str, grammar: str) -> str | None:
    if isinstance(tokenizer, str):
        return tokenizer
    try:
        compile_grammar(tokenizer, grammar)
    except GrammarError as error:
        return str(error)
    return None


if __name__ == "__main__":
    main()
