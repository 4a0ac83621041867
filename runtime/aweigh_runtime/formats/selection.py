"""Which modules a checkpoint means when it lists names: to leave dense, or to quantize so."""

from collections.abc import Callable, Collection, Sequence
from fnmatch import fnmatchcase

from aweigh_runtime.failures import UnsupportedModel
from aweigh_runtime.fields import Fields
from aweigh_runtime.formats.pattern import Pattern, PatternError

REGEX = "re:"
_MAX_ENTRIES = 65_536
_MAX_REGEXES = 256


def kind(module: str) -> str:
    """The class of a module, which some lists name: Linear, Embedding or RMSNorm."""
    last = module.rpartition(".")[2]
    if last == "embed_tokens":
        return "Embedding"
    return "RMSNorm" if last.endswith("norm") else "Linear"


def names(fields: Fields, *lists: str) -> list[str]:
    """All entries of lists, of which each may be absent."""
    found = [entry for name in lists if name in fields for entry in fields.texts(name)]
    expect_few(fields, found)
    return found


def expect_few(fields: Fields, entries: Collection[str]) -> None:
    """Refuse more entries than anybody would write.

    Raises:
        UnsupportedModel: since each is tried on each module.
    """
    if len(entries) > _MAX_ENTRIES or sum(map(is_regex, entries)) > _MAX_REGEXES:
        raise UnsupportedModel(
            f"{fields.path}: modules are listed in {len(entries)} entries; expected at most "
            f"{_MAX_ENTRIES}, and at most {_MAX_REGEXES} regular expressions"
        )


def is_regex(entry: str) -> bool:
    """Whether an entry is a regular expression, as compressed-tensors writes them: `re:.*mlp`."""
    return entry.startswith(REGEX)


def regex(fields: Fields, entry: str) -> Callable[[str], bool]:
    """Whether a module's name begins as the expression of `entry` says.

    Raises:
        UnsupportedModel: at once, if the expression is not read here; when it is matched, if that
            takes too long.
    """

    def refused(error: PatternError) -> UnsupportedModel:
        return UnsupportedModel(
            f"{fields.path}: the regular expression {entry[:80]!r} is not supported: {error}"
        )

    try:
        pattern = Pattern(entry.removeprefix(REGEX))
    except PatternError as error:
        raise refused(error) from error

    def matches(module: str) -> bool:
        try:
            return pattern.matches(module)
        except PatternError as error:
            raise refused(error) from error

    return matches


def listed(fields: Fields, entries: Sequence[str]) -> Callable[[str], bool]:
    """Whether a list names a module, something around it, or the end of its name.

    Entries are names, which may hold `*` and `?`, and regular expressions.
    """
    regexes = [regex(fields, entry) for entry in entries if is_regex(entry)]
    exact = {entry for entry in entries if not is_regex(entry) and not _has_wildcard(entry)}
    wild = [entry for entry in entries if not is_regex(entry) and _has_wildcard(entry)]

    def matches(module: str) -> bool:
        parts = module.split(".")
        views = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
        views |= {".".join(parts[start:]) for start in range(len(parts))}
        return (
            not exact.isdisjoint(views)
            or any(fnmatchcase(view, entry) for entry in wild for view in views)
            or any(found(module) for found in regexes)
        )

    return matches


def _has_wildcard(entry: str) -> bool:
    return any(sign in entry for sign in "*?[")
