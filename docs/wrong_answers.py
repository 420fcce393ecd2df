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
            ("    return losses", "    return None", "returns nothing"),
            ("loss.item()", "loss", "losses are tensors"),
            ("lr * params", "1e-5 * params", "multiply by lr"),
        ],
        [
            ("too_low = 1e-6", "too_low = 1e-5", "try a lower rate"),
            ("too_low = 1e-6", "too_low = 0", "should still fall"),
            ("good = 1e-5", "good = 4e-5", "one between the others"),
            ("too_high = 4e-5", "too_high = 3e-5", "try a higher rate"),
        ],
    ],
    "2_learner": [
        [
            ("Data([train], [valid])", "train", "no validation data"),
            ("callbacks=[EarlyStopping", "callbacks=[ZeroGrad] or [EarlyStopping", "add the callback"),
            ("lr=0.5", "lr=0.3", "learning rate of 0.5"),
            (", min_delta=0.1", "", "min_delta"),
            ("Quadratic(first_params)", "model", "not the first ones"),
            ("min_delta=0.1", "min_delta=0.1, restore_best=False", "restore_best"),
            ('"valid_loss"', '"train_loss"', "loop stops after"),
        ],
    ],
    "3_callbacks": [
        [
            (">= self.target", "<= self.target", "stops after the first epoch"),
            (">= self.target", ">= self.target + 1", "did not stop"),
            (">= self.target", ">= self.target + 0.03", "epoch late"),
            ("{value:.3f}", "good", "does not mention the accuracy"),
            ("learn.stop(", "print(", "did not stop"),
        ],
        [
            (" / self.n ", " ", "divide by the number of batches"),
            ("def before_train", "def before_fit", "start again in before_train"),
            ('["gradient_norm"] =', '["norm"] =', "there is no result"),
            ("self.total + torch", "torch", "mean of 4"),
        ],
        [
            ("requires_grad_(False)", "requires_grad_(True)", "the layer learns"),
            ("def cleanup_fit", "def after_fit", "after an error"),
            ("requires_grad_(required_grad)", "requires_grad_(True)", "restore what was there, not True"),
            (
                "            parameter.requires_grad_(required_grad)",
                "            pass",
                "still frozen after the fit",
            ),
        ],
    ],
    "4_rates": [
        [
            ("progress / 0.1", "progress", "half of the warm-up"),
            ("progress / 0.1", "1 - progress / 0.1", "starts at 1 instead of 0"),
            ("(progress - 0.1) / 0.9", "progress", "the cosine starts at 0.1"),
            ("(progress - 0.1) / 0.9", "progress - 0.1", "ends at"),
        ],
        [
            ("learn.batch_idx\n", "0\n", "last rate"),
            ("n_batches - 1)", "n_batches)", "last rate"),
            ("rate * self.shape", "self.shape", "first wrong rate"),
            ("rate * self.shape", "group['lr'] * self.shape", "all rates are 0"),
            ("if learn.training", "if not learn.training", "in training only"),
            ("def cleanup_fit", "def after_fit", "after an error"),
            ("def cleanup_fit", "def _cleanup", "restore it in cleanup_fit"),
        ],
    ],
    "5_seeing_inside": [
        [
            ("isinstance(module, nn.ReLU)", "isinstance(module, nn.Conv2d)", "shares is empty"),
            ("if module.training:", "if True:", "only if module.training"),
            ("(output == 0).all(dim=0)", "(output == 0)", "6 of 8 units"),
            ("all(dim=0)", "any(dim=0)", "not for any"),
            ("    def cleanup_fit(self", "    def _cleanup(self", "hook is still there after the fit"),
            ("cleanup_fit", "after_fit", "after an error in the fit a hook"),
        ],
        [
            ("lr=0.01, activation=nn.LeakyReLU", "lr=0.2", "not yet below 0.05"),
        ],
    ],
    "6_regularising": [
        [
            ("if learn.training:", "if True:", "only if learn.training"),
            ("randn_like", "rand_like", "not rand_like"),
            ("torch.randn_like(points)", "torch.randn(1)", "its own noise"),
            ("self.std * ", "", "standard deviation 0.3"),
            ("torch.randn_like(points)", "torch.randn(20, 2, generator=torch.Generator())", "the same noise"),
        ],
        [
            ("learn.loss_grad + self", "self", "not that of loss"),
            ("square().mean()", "square().sum()", "not that of loss"),
        ],
    ],
    "7_large_batches": [
        [
            ("raise CancelStep", "pass", "update after every batch"),
            ("!= 0:", "!= 99:", "no update at all"),
            ("(learn.batch_idx + 1) %", "learn.batch_idx %", "after batch n - 1"),
            ("learn.loss_grad = learn.loss_grad / self.n", "pass", "times as far"),
            ("order = Order.PREPARE", "order = Order.DECIDE", "keep Order.PREPARE"),
        ],
    ],
    "8_trusting_a_run": [
        [
            ('    state = ("std",)\n', "", "name its attribute in state"),
            (', resume="auto"', "", "does not resume"),
            ('every="3 steps"', 'every="1 epoch"', "steps were lost"),
        ],
    ],
}
