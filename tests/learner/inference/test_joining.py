"""Predictions and targets of a loader are joined over its batches."""

from __future__ import annotations

import warnings
from collections import UserDict, namedtuple
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence
from upper.joined_outputs import Model, joined

from callbacks import LearnerWarning
from learner import Data, Learner

State = namedtuple("State", "out total")
SIZES = [(2, 2), (3, 1), (2,), (4, 4, 2), (1, 1)]


@dataclass(frozen=True)
class Named:
    out: torch.Tensor
    names: list[str]
    missing: None = None


def numbers(x):
    return [int(item) for item in x[:, 0]]


def boxes(x):
    return [{"boxes": torch.full((n + 2, 4), n), "image": torch.tensor(n)} for n in numbers(x)]


@pytest.mark.parametrize("sizes", SIZES)
def test_a_list_with_one_entry_per_item_is_joined_end_to_end(sizes):
    preds, targets = joined(boxes, sizes, lambda x: tuple(boxes(x)))
    for found in (preds, targets):
        assert [each["image"].item() for each in found] == list(range(sum(sizes)))
        assert [len(each["boxes"]) for each in found] == [n + 2 for n in range(sum(sizes))]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kind", [list, tuple])
def test_names_stay_in_the_order_of_the_items(kind, sizes):
    _, names = joined(lambda x: x, sizes, lambda x: kind(map(str, numbers(x))))
    assert names == [str(n) for n in range(sum(sizes))]


@pytest.mark.parametrize("sizes", SIZES)
def test_several_outputs_in_a_list_are_joined_one_by_one_also_if_a_batch_has_as_many_items(sizes):
    preds, _ = joined(lambda x: [x, x.expand(-1, 3)], sizes)
    assert [tuple(each.shape) for each in preds] == [(sum(sizes), 1), (sum(sizes), 3)]


@pytest.mark.parametrize("sizes", SIZES)
def test_recurrent_outputs_and_their_states_are_joined_along_the_items(sizes):
    preds, state = joined(lambda x: (x.expand(-1, 3), torch.stack([x, 10 * x, x])), sizes)[0]
    assert torch.equal(preds[:, 0], torch.arange(sum(sizes)).float())
    assert torch.equal(state[1, :, 0], 10 * preds[:, 0])


@pytest.mark.parametrize("sizes", [(3, 1), (4, 4, 1)])
@pytest.mark.parametrize("width", [1, 4])
def test_a_last_batch_of_one_whose_first_dimension_was_squeezed_away_is_one_item(sizes, width):
    preds, _ = joined(lambda x: x.expand(-1, width).squeeze(), sizes)
    assert preds.shape == ((sum(sizes), width) if width > 1 else (sum(sizes),))


def test_items_squeezed_out_of_batches_of_one_stay_apart():
    def steps(x):
        return x.expand(1, 2 + int(x))

    preds, targets = joined(lambda x: steps(x).squeeze(), (1, 1, 1), steps)
    assert [each.tolist() for each in preds] == [each.tolist() for each in targets]
    assert [each.tolist() for each in preds] == [[0, 0], [1, 1, 1], [2, 2, 2, 2]]
    preds, _ = joined(lambda x: x.expand(1, 3).squeeze(0), (1, 1))
    assert preds.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert joined(lambda x: x.expand(5, 1, 3), (1, 1))[0].shape == (5, 2, 3)  # time first


@pytest.mark.parametrize("sizes", [(5, 5), (5, 5, 2)])
def test_a_tuple_with_one_tensor_per_item_is_joined_end_to_end(sizes):
    preds, _ = joined(lambda x: tuple(x.expand(-1, 3)), sizes)
    assert [each.tolist() for each in preds] == [[n, n, n] for n in range(sum(sizes))]
    preds, _ = joined(lambda x: x[:, 0].unbind(), sizes)
    assert [each.item() for each in preds] == list(range(sum(sizes)))


def test_a_tuple_of_as_many_outputs_as_items_is_several_outputs_beside_a_shared_tensor():
    loss, preds, shared = joined(lambda x: (x.sum(), x, torch.zeros(7, 4)), (3, 3))[0]
    assert loss.tolist() == [3, 12]
    assert preds[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert shared.shape == (14, 4)


def test_items_of_several_shapes_become_a_list_of_items():
    preds, targets = joined(
        lambda x: x.new_zeros(len(x), len(x)), (3, 1), lambda x: np.zeros((len(x), len(x)))
    )
    assert [len(each) for each in preds] == [len(each) for each in targets] == [3, 3, 3, 1]


def test_arrays_and_numbers_are_joined_and_one_number_per_batch_becomes_a_row():
    preds, targets = joined(lambda x: {"a": x.sum(), "n": len(x)}, (2, 1), lambda x: x.numpy())
    assert (preds["a"].tolist(), preds["n"], targets.shape) == ([1.0, 2.0], [2, 1], (3, 1))


@pytest.mark.parametrize(
    ("function", "sizes"),
    [
        (lambda x: x.sum(), (3, 2)),
        (lambda x: x.sum().item(), (3, 2)),
        (lambda x: x.sum(), (3,)),
        (lambda x: x.sum(0), (3, 3)),
        (lambda x: x.new_ones(4), (3, 2)),
    ],
    ids=["tensors", "numbers", "one batch", "one row", "one shape"],
)
def test_one_entry_per_batch_raises_one_warning(function, sizes):
    with pytest.warns(LearnerWarning, match="one entry per batch, not per item") as caught:
        joined(lambda x: x, sizes, keep=function)
    assert len(caught) == 1
    assert len(joined(lambda x: x, sizes, keep=function, returns="batches")[0]) == len(sizes)


@pytest.mark.parametrize(
    ("function", "sizes"),
    [
        (lambda x: x.sum(), (1, 1, 1)),
        (lambda x: x.expand(-1, 4).reshape(1, -1, 4), (3, 2)),
        (lambda x: x.expand(-1, 4).reshape(-1), (3, 2)),
        (lambda x: x.new_ones(int(x.sum()) + 1), (3, 2)),
    ],
    ids=["batches of one", "second dimension", "rows of items", "boxes"],
)
def test_outputs_of_items_in_other_forms_raise_no_warning(function, sizes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preds, _ = joined(lambda x: x, sizes, keep=function)
    assert len(preds) >= 1


@pytest.mark.parametrize("is_sorted", [True, False])
def test_packed_sequences_are_repacked_in_the_order_in_which_they_were_given(is_sorted):
    def pack(x):
        sequences = [torch.full((n + 1, 2), n) for n in numbers(x)]
        return pack_sequence(sequences[:: -1 if is_sorted else 1], enforce_sorted=is_sorted)

    preds, _ = joined(pack, (3, 2))
    padded, lengths = pad_packed_sequence(preds, batch_first=True)
    order = [2, 1, 0, 4, 3] if is_sorted else list(range(5))
    assert padded[:, 0, 0].tolist() == order
    assert lengths.tolist() == [n + 1 for n in order]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_become_one(layout):
    preds, _ = joined(
        lambda x: torch.nested.nested_tensor(
            [torch.full((n + 1, 2), float(n)) for n in numbers(x)], layout=layout
        ),
        (2, 1),
    )
    assert [(len(each), each[0, 0].item()) for each in preds.unbind()] == [(1, 0.0), (2, 1.0), (3, 2.0)]


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ((torch.bool, torch.uint8, torch.int64), torch.int64),
        ((torch.uint16, torch.int32, torch.uint8), torch.int32),
        ((torch.float16, torch.bfloat16, torch.float16), torch.float32),
    ],
)
def test_batches_of_several_dtypes_are_joined_in_one_that_holds_all(dtypes, expected):
    preds, _ = joined(lambda x: x.to(dtypes[int(x[0, 0])]), (1, 1, 1))
    assert preds.dtype == expected
    assert preds[:, 0].tolist() in ([0, 1, 2], [False, 1, 2])


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [
        (lambda x: State(x, x.sum()), State),
        (lambda x: Named(x, [str(n) for n in numbers(x)]), Named),
        (lambda x: UserDict(out=x), UserDict),
        (lambda x: torch.max(x.expand(-1, 3), 1), torch.return_types.max),
    ],
)
def test_an_output_of_several_parts_keeps_its_kind(wrap, kind):
    preds, _ = joined(wrap, (2, 2))
    assert type(preds) is kind
    out = preds["out"] if kind is UserDict else preds[0] if kind is torch.return_types.max else preds.out
    assert len(out) == 4
    assert kind is not Named or preds.names == ["0", "1", "2", "3"]


def test_a_model_and_a_loader_may_use_the_same_memory_for_each_batch():
    memory = torch.zeros(2, 1)

    def batches():
        for n in range(3):
            memory.fill_(n)
            yield memory, memory

    sgd = partial(torch.optim.SGD, lr=0.1)
    learn = Learner(Model(lambda x: memory), Data(batches, batches), lambda p, t: p, sgd)
    for returns in ("joined", "batches"):
        for found in learn.get_preds(batches, returns=returns):
            rows = found if returns == "joined" else torch.cat(found)
            assert rows[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_a_loader_may_use_the_same_array_and_list_for_each_batch():
    memory, names = np.zeros((2, 1)), [""] * 2

    def batches():
        for n in range(3):
            memory[:], names[:] = n, [str(n)] * 2
            yield torch.zeros(2, 1), {"x": memory, "names": names}

    sgd = partial(torch.optim.SGD, lr=0.1)
    _, found = Learner(Model(lambda x: x), Data(batches, batches), lambda p, t: p, sgd).get_preds(batches)
    assert found["x"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert found["names"] == ["0", "0", "1", "1", "2", "2"]


def test_a_part_of_the_output_can_be_selected_by_name_or_by_a_function():
    def output(x):
        return {"logits": x.expand(-1, 3), "cache": object()}

    assert joined(output, (2, 1), keep="logits")[0].shape == (3, 3)
    assert joined(output, (2, 1), keep=lambda out: out["logits"].argmax(1))[0].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"preds\['cache'\] is .*object.*returns='batches'.*keep='logits'"):
        joined(output, (2, 1))
    with pytest.raises(ValueError, match=r"keep a part of the output, with get_preds\(keep=0\)"):
        joined(lambda x: (x, object()), (2, 1))
    with pytest.raises(ValueError, match=r"keep='logit'.*has no part 'logit'\. It has: 'logits', 'cache'"):
        joined(output, (2, 1), keep="logit")


def test_a_part_of_a_tuple_can_be_selected_by_its_number():
    def output(x):
        return x, x.expand(-1, 3)

    assert joined(output, (2, 1), keep=0)[0].shape == (3, 1)
    assert joined(output, (2, 1), keep=-1)[0].shape == (3, 3)
    with pytest.raises(ValueError, match=r"keep=2.*has no part 2\. It has: 0, 1\."):
        joined(output, (2, 1), keep=2)
    with pytest.raises(ValueError, match=r"keep=0.*a tensor of shape.*has no part 0\. Leave keep out"):
        joined(lambda x: x, (2, 1), keep=0)
