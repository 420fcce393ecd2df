"""Wrong answers to the exercises of the course, each with the hint that the check must give.

For each chapter: for each of its checks, in their order, a list of `(old, new, hint)`. Replacing `old` by
`new` in the solution makes it wrong; `hint` is a regular expression that matches the message of the check.
"""

WRONG_ANSWERS: dict[str, list[list[tuple[str, str, str]]]] = {
    "1_by_hand": [
        [
            ("        params.grad = None\n", "", "clear the gradient after each step"),
            ("-= lr", "+= lr", "with a minus"),
            ("params -= lr * params.grad", "params - lr * params.grad", "subtract .* in place"),
            ("lr * params.grad", "lr * params.grad / 2", "tenth loss should be 325.364"),
            ("range(n_steps)", "range(n_steps - 1)", "append one in each step"),
        ],
        [
            ("too_low = 1e-6", "too_low = 1e-5", "try a lower rate"),
            ("too_low = 1e-6", "too_low = 0", "should still fall"),
            ("good = 1e-5", "good = 4e-5", "one between the others"),
            ("too_high = 4e-5", "too_high = 3e-5", "try a higher rate"),
        ],
    ],
}
