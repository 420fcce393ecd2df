"""Functions of progress, from 0 at the first batch to 1 at the last, that scripts contain."""

IN_PHASES = '''
def in_phases(phases: list, progress: float, n_steps: int) -> float:
    """The value of functions of progress, which end at their shares of the steps."""
    ends = [end for end, _ in phases]
    if n_steps > 1:  # the last step of a phase has the phase's end value
        ends = [*((end * n_steps - 1) / (n_steps - 1) for end in ends[:-1]), 1.0]
    at = next((number for number, end in enumerate(ends) if end >= progress), len(ends) - 1)
    start = max(ends[at - 1], 0.0) if at else 0.0
    share = (progress - start) / (ends[at] - start) if ends[at] > start else 1.0
    return phases[at][1](min(max(share, 0.0), 1.0))
'''

CONSTANT = '''
def constant(value: float, progress: float) -> float:
    """The same value all the time."""
    return value
'''

LIN = '''
def lin(start: float, end: float, progress: float) -> float:
    """Linear from one value to another."""
    return start + (end - start) * progress
'''

COS = '''
def cos(start: float, end: float, progress: float) -> float:
    """Half a cosine from one value to another."""
    return end + (start - end) / 2.0 * (math.cos(math.pi * progress) + 1)
'''

EXP = '''
def exp(start: float, end: float, progress: float) -> float:
    """From one value to another by the same factor at each step."""
    return start * (end / start) ** progress
'''

POLY = '''
def poly(start: float, end: float, power: float, progress: float) -> float:
    """From one value to another by a power of progress."""
    return start + (end - start) * progress**power
'''

SGDR = '''
def sgdr(
    start: float, end: float, n_cycles: int, mult: float, n_steps: int, progress: float
) -> float:
    """Down along a cosine with restarts, each cycle `mult` times as long as the one before."""
    lengths = [mult**cycle for cycle in range(n_cycles)]
    ends = [sum(lengths[: cycle + 1]) / sum(lengths) for cycle in range(n_cycles)]
    progress *= (n_steps - 1) / n_steps
    at = next((number for number, each in enumerate(ends) if progress < each - 1e-9), n_cycles - 1)
    first = ends[at - 1] if at else 0.0
    share = (progress - first) / (ends[at] - first)
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)
'''

HELPERS = {"constant": CONSTANT, "lin": LIN, "cos": COS, "exp": EXP, "poly": POLY, "sgdr": SGDR}
