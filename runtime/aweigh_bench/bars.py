"""Whether an interval keeps a bar: yes, no, or None where it cannot tell. Pure.

The whole interval decides, so that measuring less makes nothing easier to reach. Where the bar is
inside, a narrow interval keeps it, as a number so near is never exact; a wide one is no evidence.
"""

WIDEST = 0.02  # of the bar, to each side: a wider interval around the bar decides nothing
RULE = (
    "A bar is met, or missed, by the whole interval. Where the bar lies inside, it is met if the "
    f"interval is at most {100 * WIDEST:g} % of the bar wide to each side, else undecided."
)


def at_least(low: float, high: float, bar: float) -> bool | None:
    """Whether what lies from `low` to `high` reaches the bar."""
    if low >= bar or high < bar:
        return low >= bar
    return True if high - low <= 2 * WIDEST * abs(bar) else None


def at_most(low: float, high: float, bar: float) -> bool | None:
    """Whether it stays below, or at the bar."""
    return at_least(-high, -low, -bar)
