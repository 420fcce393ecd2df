"""Pictures of batches and of results, by the type of the data."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

from learner import Data, Interpretation, Learner

SGD = partial(torch.optim.SGD, lr=0.1)
IMAGES, CLASSES = torch.rand(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1])


def learner_of(
    inputs: torch.Tensor, targets: torch.Tensor = CLASSES, model=None, loss=F.cross_entropy
) -> Learner:
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].numel(), 3))
    batches = [(inputs, targets)]
    return Learner(model, (batches, batches), loss, SGD)


def titles_of(figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes]


def test_images_are_shown_with_the_names_of_their_classes():
    figure = learner_of(IMAGES).show_batch(4, classes=["cat", "dog", "owl"])
    assert titles_of(figure) == ["cat", "dog", "owl", "cat"]
    assert torch.as_tensor(figure.axes[1].images[0].get_array()).equal(IMAGES[1, 0])
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_the_names_of_the_classes_are_those_of_the_data_set():
    data = TensorDataset(IMAGES, CLASSES)
    data.classes = ["cat", "dog", "owl"]
    loader = DataLoader(Subset(data, [2, 1]), 2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    learn = Learner(model, (loader, loader), F.cross_entropy, SGD)
    assert titles_of(learn.show_batch()) == ["owl", "dog"]
    assert {word for title in titles_of(learn.show_results()) for word in title.split()} & {
        "cat",
        "dog",
        "owl",
    }
    assert Interpretation(learn).classes == ["cat", "dog", "owl"]


def test_results_name_the_prediction_and_a_target_that_differs():
    learn = learner_of(IMAGES)
    pairs = list(zip(learn.predict(IMAGES).argmax(1).tolist(), CLASSES.tolist(), strict=True))
    expected = [f"{pred}" + (f" (target: {target})" if pred != target else "") for pred, target in pairs]
    assert titles_of(learn.show_results()) == expected


def test_rows_of_numbers_are_a_table_and_sequences_are_lines():
    table = learner_of(torch.rand(5, 4)).show_batch(2).axes[0].tables[0]
    assert table[2, -1].get_text().get_text() == "1"  # the target of the second row
    figure = learner_of(torch.rand(5, 30)).show_batch(2)
    assert [len(ax.get_lines()[0].get_ydata()) for ax in figure.axes] == [30, 30]


@pytest.mark.parametrize("shape", [(2, 30), (30, 2)])
def test_a_signal_with_channels_has_a_line_per_channel_over_its_length(shape):
    figure = learner_of(torch.rand(5, *shape)).show_batch(1)
    assert [len(line.get_ydata()) for line in figure.axes[0].get_lines()] == [30, 30]


def test_whole_numbers_are_words_and_a_mask_is_drawn_over_its_image():
    tokens = torch.randint(9, (5, 6))
    model = nn.Sequential(nn.Embedding(9, 2), nn.Flatten(), nn.Linear(12, 3))
    figure = learner_of(tokens, model=model).show_batch(1)
    assert figure.axes[0].texts[0].get_text() == " ".join(map(str, tokens[0].tolist()))
    learn = learner_of(IMAGES, torch.randint(2, (5, 8, 8)), nn.Conv2d(1, 2, 1))
    assert [len(ax.images) for ax in learn.show_batch(2).axes] == [2, 2]


class Predicts(nn.Module):
    """Predicts these classes for the pixels, whatever the images."""

    def __init__(self, masks):
        super().__init__()
        self.scores = nn.Parameter(nn.functional.one_hot(masks, 3).movedim(-1, 1).float())

    def forward(self, images):
        return self.scores[: len(images)]


def colours_of(figure):
    """The colours drawn over each image, and the names in the legend."""
    over = [
        [image.to_rgba(image.get_array()).reshape(-1, 4) for image in ax.images[1:]] for ax in figure.axes
    ]
    opaque = [{tuple(each[:3]) for array in arrays for each in array if each[3]} for arrays in over]
    return opaque, [text.get_text() for each in figure.legends for text in each.get_texts()]


def test_a_class_of_pixels_has_one_colour_in_all_pictures_and_the_legend_names_it():
    masks = torch.zeros(5, 8, 8, dtype=torch.long)
    masks[0, :2], masks[1, :2], masks[1, 4:] = 1, 1, 2
    (first, second, *_), names = colours_of(
        learner_of(IMAGES, masks, Predicts(masks)).show_batch(3, classes=["none", "disc", "bar"])
    )
    assert (len(first), len(second)) == (1, 2)
    assert first < second
    assert names == ["disc", "bar"]
    assert colours_of(learner_of(IMAGES, masks, Predicts(masks)).show_batch(3))[1] == ["class 1", "class 2"]


def test_wrong_pixels_have_their_own_colour_and_ignored_pixels_do_not():
    masks = torch.zeros(5, 8, 8, dtype=torch.long)
    masks[0, :2] = 1
    predicted = masks.clone()
    predicted[0, 0], predicted[1, 0] = 0, 1  # the second is ignored below
    masks[1, 0] = 255
    loss = nn.CrossEntropyLoss(ignore_index=255)
    learn = learner_of(IMAGES, masks, Predicts(predicted), loss)
    for figure in (learn.show_results(3), Interpretation(learn).plot_top_losses(5)):
        assert colours_of(figure)[1] == ["class 1", "wrong"]
    drawn = [len(ax.images) for ax in learn.show_results(2).axes]
    assert drawn == [3, 2]
    assert colours_of(learn.show_batch(2))[1] == ["class 1"]  # and no class 255


def test_an_image_as_the_target_is_not_drawn_as_a_mask():
    learn = learner_of(IMAGES, torch.rand(5, 1, 8, 8), nn.Conv2d(1, 1, 1), nn.MSELoss())
    for figure in (learn.show_batch(2), learn.show_results(2)):
        assert [len(ax.images) for ax in figure.axes] == [1, 1]


def test_a_function_of_the_user_draws_each_item():
    seen = []

    def show(ax, inputs, target, pred):
        seen.append((tuple(inputs.shape), int(target), None if pred is None else tuple(pred.shape)))

    learn = learner_of(IMAGES)
    learn.show_batch(2, show=show)
    learn.show_results(1, show=show)
    assert seen == [((1, 8, 8), 0, None), ((1, 8, 8), 1, None), ((1, 8, 8), 0, (3,))]


def test_the_next_pass_and_the_random_states_are_the_same_as_without():
    def order(shows: bool) -> list[float]:
        data = TensorDataset(torch.arange(20.0)[:, None], torch.zeros(20).long())
        loader = DataLoader(data, 4, shuffle=True, generator=torch.Generator().manual_seed(0))
        held_out = [(torch.rand(4, 1), torch.zeros(4).long())]
        learn = Learner(nn.Linear(1, 2), Data(loader, held_out), F.cross_entropy, SGD)
        torch.manual_seed(0)
        if shows:
            learn.show_batch(2)
            learn.show_results(2)
            learn.summary()
        return [torch.rand(1).item(), *(float(x) for inputs, _ in loader for x in inputs)]

    assert order(shows=True) == order(shows=False)


def test_data_that_can_be_read_only_once_or_is_empty_is_refused(make_learner):
    learn = make_learner(data=Data(iter([(torch.rand(2, 1), torch.rand(2, 1))]), None))
    with pytest.raises(ValueError, match=r"show_batch: the data can be read only once.*loader=\[batch\]"):
        learn.show_batch()
    with pytest.raises(ValueError, match=r"summary: the data can be read only once.*summary\(inputs\)"):
        learn.summary()
    with pytest.raises(ValueError, match="show_results: the loader has no batch"):
        learn.show_results(loader=[])
    with pytest.raises(ValueError, match=r"show_batch\(n=0\): n must be a whole number"):
        learn.show_batch(0)


@pytest.mark.parametrize("loader", [torch.rand(4, 1), (torch.rand(4, 1), torch.rand(4, 1)), 5])
def test_what_is_not_in_batches_is_refused_and_not_drawn(make_learner, loader):
    with pytest.raises(TypeError, match=r"the loader is .*: (batch it|pass an iterable)|not in batches"):
        make_learner().show_batch(loader=loader)


@pytest.mark.parametrize(
    ("targets", "loss_func", "expected"),
    [
        (torch.tensor([[0.0, 1, 1], [0, 0, 0]]), nn.BCEWithLogitsLoss(), ["b, c", "none"]),
        (torch.tensor([[0.25, 1.5, 2.0], [1, 2, 3]]), nn.MSELoss(), ["0.25, 1.5, 2", "1, 2, 3"]),
        (torch.tensor([2, 0]), nn.CrossEntropyLoss(), ["c", "a"]),
    ],
)
def test_targets_are_shown_in_words(targets, loss_func, expected):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    learn = Learner(model, ([(IMAGES[:2], targets)], None), loss_func, SGD)
    assert titles_of(learn.show_batch(classes=["a", "b", "c"])) == expected
    assert len(titles_of(learn.show_results(classes=["a", "b", "c"]))) == 2


def test_several_inputs_texts_and_images_of_different_sizes_are_drawn(make_learner):
    texts = [(["a first text", "another"], torch.zeros(2, 1))]
    figure = make_learner(data=Data(texts, None)).show_batch()
    assert [ax.texts[0].get_text() for ax in figure.axes] == ["a first text", "another"]
    images = [torch.rand(3, 8, 9), torch.rand(3, 12, 8)]
    figure = make_learner(data=Data([(images, ["cat", "dog"])], None)).show_batch()
    assert titles_of(figure) == ["cat", "dog"]
    assert [ax.images[0].get_array().shape for ax in figure.axes] == [(8, 9, 3), (12, 8, 3)]
    both = make_learner(data=Data([(IMAGES, torch.rand(5, 2), CLASSES)], None, n_inputs=2)).show_batch(2)
    assert [len(ax.images) for ax in both.axes] == [1, 1]


@pytest.mark.parametrize("is_named", [True, False])
def test_several_inputs_of_few_numbers_are_columns_of_one_table(is_named):
    parts = {"facts": torch.rand(5, 2), "place": torch.arange(5)}
    batch = (parts if is_named else tuple(parts.values()), torch.rand(5, 1))
    data = Data([batch], split=lambda each: each)
    table = Learner(nn.Linear(2, 1), data, F.mse_loss).show_batch(3).axes[0].tables[0]
    names = ["facts 0", "facts 1", "place"] if is_named else ["input 0", "input 1", "input 2"]
    assert [table[0, n].get_text().get_text() for n in range(3)] == names
    assert table[3, 2].get_text().get_text() == "2"


def test_classes_without_an_order_and_a_show_with_other_arguments_are_refused():
    learn = learner_of(IMAGES)
    for method in (learn.show_batch, learn.show_results):
        with pytest.raises(TypeError, match="pass a list with a name for each class"):
            method(classes={"cat": 0, "dog": 1})
    with pytest.raises(TypeError) as caught:
        learn.show_batch(show=lambda ax: None)
    assert "show is called as show(ax, inputs, target, pred)" in caught.value.__notes__


def test_predictions_that_cannot_be_compared_are_for_a_function_of_yours():
    class Boxes(nn.Module):
        def __init__(self):
            super().__init__()
            self.size = nn.Parameter(torch.ones(4))

        def forward(self, images):
            return [{"box": self.size} for _ in images]

    learn = learner_of(IMAGES, model=Boxes(), loss=lambda preds, targets: preds[0]["box"].sum())
    with pytest.raises(TypeError, match="the predictions are a list") as caught:
        learn.show_results(2)
    assert "show_results(show=f)" in caught.value.__notes__[0]
    seen = []
    learn.show_results(2, show=lambda ax, inputs, target, pred: seen.append(list(pred)))
    assert seen == [["box"], ["box"]]


def test_texts_stand_below_each_other_without_the_padding_at_their_ends():
    tokens = torch.tensor([[4, 7, 7, 0, 0, 0, 0], [5, 1, 2, 3, 8, 0, 0]])
    model = nn.Sequential(nn.Embedding(9, 2), nn.Flatten(), nn.Linear(14, 3))
    figure = learner_of(tokens, CLASSES[:2], model).show_batch(2)
    assert [ax.texts[0].get_text() for ax in figure.axes] == ["4 7 7 (4 x 0)", "5 1 2 3 8 0 0"]
    first, second = (ax.get_position() for ax in figure.axes)
    assert first.x0 == second.x0
    assert figure.get_figheight() < 2
