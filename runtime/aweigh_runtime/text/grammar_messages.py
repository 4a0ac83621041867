"""What the server and the process that checks grammars say to each other."""

import msgspec


class Prepare(msgspec.Struct, frozen=True):
    """The first message: the model whose tokens grammars are made of."""

    tokenizer: str  # path of tokenizer.json
    vocab_size: int
    end_tokens: list[int]


class Check(msgspec.Struct, frozen=True):
    """Each further one."""

    grammar: str


class Checked(msgspec.Struct, frozen=True):
    """Whether answers can be written in it; also the answer to Prepare."""

    problem: str | None
