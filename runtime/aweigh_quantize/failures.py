"""What a user, a model or texts make impossible. Whatever else goes wrong is a mistake of ours."""


class Refusal(ValueError):
    """What was asked for cannot be done; the message says what was expected instead."""


class Unusable(Refusal):
    """Nothing can be made of such a model, or of what it computes; the message says why."""
