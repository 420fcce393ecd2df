"""The labels of the figures of a report."""

from learner.report.curves import Axis, points


def test_a_logarithmic_axis_is_labelled_in_plain_numbers():
    axis = Axis(low=1e-4, high=1e-1, is_log=True)
    figure = points("lr", "valid_loss", axis, [1e-3, 1e-2], [0.5, 0.001], marked=1)
    for label in ("0.0001", "0.001", "0.1"):
        assert f">{label}</text>" in figure
    assert "$" not in figure
