"""How long a prompt token takes to compute, from the steps that were mostly prompts. Pure."""

MIN_TOKENS = 16  # with fewer a step's fixed costs hide what a token costs
_MEMORY = 0.98  # weight of what is known against one more step


class PromptSpeed:
    """Seconds per prompt token, weighted by tokens, recent steps most."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._tokens = 0.0

    @property
    def token_s(self) -> float | None:
        """None: no step has told yet."""
        return self._seconds / self._tokens if self._tokens else None

    def observe(self, prompt_tokens: int, answer_tokens: int, seconds: float) -> None:
        """One step is done."""
        if prompt_tokens >= max(MIN_TOKENS, 4 * answer_tokens):
            self._seconds = _MEMORY * self._seconds + seconds
            self._tokens = _MEMORY * self._tokens + prompt_tokens
