"""Why a measurement cannot be made: one sentence, subject, value, expected, remedy."""


class BenchFailure(Exception):
    """The command cannot measure what it was asked to."""


class Impossible(BenchFailure):
    """What was asked for contradicts itself, or the files that it names; nothing was measured."""


class Unreachable(BenchFailure):
    """Nobody answers at the endpoint, or what answers is no OpenAI API."""
