"""Outputs that cannot be joined are refused with their place."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence
from upper.joined_outputs import joined


def test_what_cannot_be_joined_is_refused_after_the_first_batch_and_returned_per_batch_on_request():
    n_calls = []

    def output(x):
        n_calls.append(len(x))
        return {1}

    with pytest.raises(ValueError, match=r"preds is a set.*returns='batches'"):
        joined(output, (1, 1, 1))
    assert n_calls == [1]
    preds, targets = joined(output, (2, 1), returns="batches")
    assert preds == [{1}, {1}]
    assert [len(each) for each in targets] == [2, 1]


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize(
    ("output", "words"),
    [
        (lambda x: pack_sequence([x, x[:1]])._replace(data=x), "preds is a PackedSequence whose batch_sizes"),
        (lambda x: {str(len(x)): x}, r"preds has the keys \['2'\] in one batch and \['1'\] in another"),
        (lambda x: (x, None if len(x) > 1 else x), r"preds\[1\] is of several kinds: None, a tensor"),
        (lambda x: torch.zeros(5, len(x) + 3), r"preds has the shapes \(5, 5\), \(5, 4\) in the batches"),
        (lambda x: x.long() + 2**24 + 1 if len(x) > 1 else x, "float32 cannot hold all its integers"),
        (lambda x: x.to(torch.float8_e4m3fn if len(x) > 1 else torch.float16), "which have no common dtype"),
        (lambda x: x.to_sparse_csr(), r"preds has the layout torch\.sparse_csr"),
    ],
)
def test_an_output_that_fits_no_other_is_refused_with_its_place(output, words):
    with pytest.raises(ValueError, match=words):
        joined(output, (2, 1))


def test_an_unknown_request_is_refused_before_the_pass():
    with pytest.raises(ValueError, match=r"returns='list'.*must be 'joined' or 'batches'"):
        joined(lambda x: x, (1,), returns="list")
    with pytest.raises(TypeError, match=r"keep=True.*name of a part of the output"):
        joined(lambda x: x, (1,), keep=True)
