"""The decay of exponential moving averages of weights."""


def decay_of(updates: int, decay: float) -> float:
    """Of the next update: ``decay``, or less among the first ones, so that the average reaches back
    over the last ninth or so of the updates so far and suits short runs, too.

    Args:
        updates: so far.
        decay: at most, per update, in (0, 1).
    """
    return min(decay, (1 + updates) / (10 + updates))
