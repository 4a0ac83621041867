"""Names that change the answer elsewhere and are not supported here."""

from collections.abc import Collection, Mapping
from typing import Any

from aweigh_runtime.server.errors import invalid

# With the neutral values that some clients always send. An endpoint that has the field is left out.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "length_penalty": (1,),
    "top_logprobs": (0,),
    "max_completion_tokens": (),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "add_special_tokens": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "use_beam_search": (False,),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "logits_processors": ([],),
    "spaces_between_special_tokens": (True,),
    "return_tokens_as_token_ids": (False,),
    "return_token_ids": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "documents": ([],),
    "prompt_embeds": (),
    "mm_processor_kwargs": ({},),
    "kv_transfer_params": ({},),
    "vllm_xargs": ({},),
    "guided_decoding_backend": (),
    "guided_whitespace_pattern": (),
    "structural_tag": (),
}


def expect_supported(values: Mapping[str, Any], fields: Collection[str]) -> None:
    """Let a request pass whose unsupported names have neutral values.

    Raises:
        ApiError: with the name of one that has not.
    """
    for name, neutral in _NEUTRAL.items():
        value = None if name in fields else values.get(name)
        if value is not None and not _among(value, neutral):
            raise invalid(f"'{name}' is not supported: remove it.", name)


def _among(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Equal and of the same kind: False is not 0 here."""
    return any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in neutral)
