"""Each planted mistake gets exit code 2, its place, the line, what is wrong and how to fix it; no traceback.

The recipes are in planted_mistakes/. To add one, put a file there and a row here: the file's name, line and
column, words of the complaint, words of the suggestion, further words of the command line.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from learner.cli.commands import main

PLANTED_FOLDER = Path(__file__).parent / "planted_mistakes"

RIGHT = """\
data: {use: article}
model: {use: "models.py:Line"}
loss: mse
optimizer: {use: SGD, lr: 1e-5}
callbacks:
  LogRMSE: {every: 1 step}
fit: {epochs: 1}
"""

PLANTED = [
    ("misspelt_key", "4:1", "no key 'optimzer'", "Did you mean optimizer?", []),
    ("other_frameworks_key", "3:1", "no key 'criterion'", "Did you mean loss?", []),
    ("key_of_another_level", "1:1", "no key 'lr'", "optimizer: {use: SGD, lr: 0.1}", []),
    ("callback_at_the_top", "5:1", "no key 'ZeroGrad'", "write it below `callbacks:`", []),
    ("missing_model", "1:1", "has no model", "Write `model:`", []),
    ("empty_data", "1:1", "has no data", "Write `data:`", []),
    (
        "duplicate_key",
        "5:1",
        "'optimizer'; the first is in line 4",
        "Remove one of them",
        [],
    ),
    ("duplicate_argument", "4:33", "duplicate key 'lr'", "Remove one of them", []),
    ("tab", "6:1", "a tab that cannot start", "Indent with spaces", []),
    (
        "deeper_indentation",
        "7:11",
        "mapping values are not allowed",
        "Indent the line like",
        [],
    ),
    ("shallower_indentation", "7:3", "<block end>", "the same indentation", []),
    ("missing_colon", "3:1", "could not find expected ':'", "a colon and a space", []),
    ("missing_space", "7:7", "fit has no key 'epochs:1'", "Write a space after the colon", []),
    ("missing_bracket", "5:10", "expected ',' or '}'", "close the { with a }", []),
    ("open_quote", "8:1", "unexpected end of stream", "not closed", []),
    ("alias_bomb", "1:4", "cannot have anchors and aliases", "Write the value in full", []),
    ("merge_key", "2:9", "cannot have merge keys", "Write the keys in full", []),
    ("python_tag", "1:7", "cannot have tags", "Remove the ! and the word", []),
    ("huge_nesting", "1:26", "more than 20 levels", "Python file", []),
    ("two_documents", "8:1", "another document", "one document", []),
    ("empty_file", "1:1", "this recipe is empty", "learner init", []),
    ("only_comments", "1:1", "this recipe is empty", "learner init", []),
    ("list_for_mapping", "1:1", "a list of 2, not a mapping", "`key: value` lines", []),
    ("one_word", "1:1", "the text 'train', not a mapping", "`key: value` lines", []),
    ("binary", "1:1", "the byte 0x89, which is not UTF-8", "the right file", []),
    ("nul_bytes", "1:2", "the character '\\x00'", "the right file", []),
    ("latin_1", "1:12", "the byte 0xe9, which is not UTF-8", "save it as UTF-8", []),
    ("decimal_comma", "4:29", "SGD has no such argument", "a point: lr: 0.01", []),
    ("unknown_optimizer", "4:18", "no optimizer called 'Adm'", "Did you mean Adam?", []),
    (
        "optimizer_with_package",
        "4:18",
        "no optimizer called 'torch.optim.SGD'",
        "Write SGD, without its package",
        [],
    ),
    ("unknown_loss", "3:7", "no loss called 'cross_entrpy'", "Did you mean cross_entropy?", []),
    ("unknown_callback", "6:3", "no callback called 'LogRmsee'", "Did you mean LogRMSE?", []),
    ("unknown_metric", "8:11", "no metric called 'RSME'", "Did you mean RMSE?", []),
    ("optimizer_as_callback", "6:3", "no callback called 'SGD'", "is in: optimizers", []),
    ("file_without_name", "2:8", "no model called 'models.py'", 'Write `use: "models.py:Net"`', []),
    ("module_without_file", "2:8", "no model called 'models.Line'", 'Write `use: "models.py:Line"`', []),
    (
        "scheduler_as_callback",
        "6:15",
        "no callback called 'StepLR'",
        "TorchScheduler: {scheduler: {use: StepLR, ...}}",
        [],
    ),
    ("name_for_part", "6:20", "cannot take the text 'LogRMSE'", "as {use: LogRMSE}", []),
    ("metrics_as_mapping", "8:10", "metrics is a mapping of RMSE", "Write a list, as [RMSE]", []),
    ("callbacks_with_dashes", "6:3", "callbacks is a list of 1", "without dashes, as {LogRMSE: {...}}", []),
    ("callback_as_switch", "5:23", "callbacks.Progress is false", "to remove it null", []),
    ("file_that_exits", "2:14", "exits.py, line 1: SystemExit: bye", "only a script does below", []),
    ("relative_import", "2:14", "relative.py, line 1: ImportError", "`from folder.file import name`", []),
    (
        "loss_without_arguments",
        "3:1",
        "takes 0 positional arguments",
        "in the loss, nothing, given preds",
        [],
    ),
    ("list_of_wrong_length", "4:31", "cannot take a list of 3", "a list of 2; the default is [0.9,", []),
    ("use_misnamed", "4:13", "has no `use`", "Write `use:` instead of `name:`", []),
    ("no_use", "2:8", "has no `use`", "Add `use:` and a name", []),
    ("number_for_name", "3:7", "loss is the number 3", "Write a name, as mse", []),
    ("missing_file", "2:14", "no file 'model.py'", "Did you mean models.py?", []),
    ("missing_class", "2:14", "models.py has no Lime", "Did you mean Line?", []),
    ("class_of_another_kind", "6:14", "models.py:Line is not a valid callback", "a subclass of Callback", []),
    ("file_outside", "2:14", "not in or below the recipe's folder", "next to the recipe", []),
    ("absolute_file", "2:14", "not in or below the recipe's folder", "next to the recipe", []),
    ("backslash", "2:14", "has a backslash", "'sub/models.py'", []),
    ("file_with_syntax_error", "2:14", "broken.py, line 2: SyntaxError", "Fix the file", []),
    ("file_that_raises", "2:14", "raises.py, line 1: ModuleNotFoundError", "Install no_such_package", []),
    ("no_name_in_file", "2:14", "has no valid name", "models.py:Net", []),
    (
        "imported_function",
        "1:13",
        "not defined in models.py: it is posix.system",
        "Define a class or function",
        [],
    ),
    ("dunder_name", "1:13", "a special name of Python", "Name a class", []),
    ("os_system", "1:13", "no data called 'os.system'", 'use: "models.py:system"', []),
    ("builtins_eval", "1:13", "a recipe may not import", "--allow builtins", []),
    ("subprocess_popen", "2:14", "a recipe may not import", "--allow subprocess", []),
    (
        "allowed_but_not_its_own",
        "1:13",
        "not from an allowed package: it is posix.system",
        "Allowed packages: os",
        ["--allow", "os"],
    ),
    (
        "allowed_but_missing",
        "2:14",
        "cannot be imported",
        "Install no_such_package",
        ["--allow", "no_such_package"],
    ),
    (
        "allowed_of_another_kind",
        "2:14",
        "subprocess:Popen is not a valid model",
        "a subclass of nn.Module",
        ["--allow", "subprocess"],
    ),
    (
        "misspelt_argument",
        "4:23",
        "optimizer.leraning_rate: SGD has no such argument",
        "Did you mean lr?",
        [],
    ),
    ("text_for_number", "4:27", "cannot take the text '1e-5'", "a number, without quotes", []),
    ("negative_rate", "4:27", "cannot take the number -1e-05", "above 0", []),
    ("infinite_rate", "4:27", "cannot take the number nan", "above 0", []),
    ("negative_momentum", "4:43", "Invalid momentum value: -1", "learner ls SGD", []),
    ("missing_argument", "2:14", "models.py:Cubic needs scale", "Add `scale:`", []),
    ("float_for_whole_number", "2:35", "cannot take the number 3.5", "a whole number", []),
    ("bad_interval", "6:20", "every='1 banana'", "learner ls LogRMSE", []),
    ("number_for_interval", "6:20", "cannot take the number 10", "the default is '1 step'", []),
    ("callback_without_mapping", "6:12", "callbacks.LogRMSE is the text '1 step'", "{every: 1 step}", []),
    ("callbacks_as_list", "5:12", "callbacks is a list of 2", "{ZeroGrad: {}, LogRMSE: {}}", []),
    ("metrics_as_word", "8:10", "metrics is the text 'RMSE'", "Write a list, as [RMSE]", []),
    (
        "another_frameworks_callback",
        "6:3",
        "no callback called 'SaveModelCallback'",
        "Its name here is Checkpoint",
        [],
    ),
    ("another_frameworks_metric", "8:11", "no metric called 'F1Score'", "Its name here is F1", []),
    (
        "optimizer_as_call",
        "4:12",
        "no optimizer called 'SGD(lr=1e-5)'",
        "arguments as keys: {use: SGD, ...}",
        [],
    ),
    ("schedule_in_fit", "7:18", "fit has no key 'schedule'", "ParamScheduler: {schedules:", []),
    ("epochs_as_text", "7:15", "fit.epochs is the text 'ten'", "a whole number", []),
    ("fit_as_number", "7:6", "fit is the number 1", "Write {epochs: 10}", []),
    ("negative_seed", "1:7", "seed is the number -1", "from 0 to 4294967295", []),
    ("unknown_device", "1:9", "no such device", "learner ls DevicePlacement", []),
    ("device_twice", "1:1", "set twice", "Remove one of them", []),
    ("monitor_of_nothing", "6:3", "monitor='vald_loss'", "Available: lr, train_loss", []),
    ("nobody_zeroes", "6:1", "no callback zeroes the gradients", "Add ZeroGrad", []),
    ("model_that_raises", "2:8", "models.py, line", "Fix the file", []),
    ("classes_for_numbers", "3:1", "in the loss, mse_loss, given preds", "use cross_entropy as loss", []),
    ("layers_that_do_not_fit", "2:1", "in layer Linear at model.1", "it takes (..., 30)", []),
    ("too_few_outputs", "3:1", "targets range from 0 to 9", "preds have 5 classes", []),
    ("no_model", "2:1", "model is None", "pass an nn.Module", []),
    ("override_without_value", "1:1", "it has no =", "key.path=value", ["optimizer.lr"]),
    ("override_of_a_missing_key", "1:1", "no key 'optimzer'", "Did you mean optimizer?", ["optimzer.lr=3"]),
    (
        "override_of_a_missing_argument",
        "1:11",
        "has no such argument",
        "Did you mean lr?",
        ["optimizer.learning_rate=3"],
    ),
    ("override_below_a_number", "1:12", "the plain value", "fit.epochs=value", ["fit.epochs.x=3"]),
    ("override_that_is_not_yaml", "1:16", "expected ',' or ']'", "close the [", ["optimizer.lr=[1"]),
    ("override_without_path", "1:1", "is not an override", "key.path=value", ["=3"]),
    (
        "override_of_a_wrong_kind",
        "1:12",
        "fit.epochs is the text 'many'",
        "a whole number",
        ["fit.epochs=many"],
    ),
    (
        "override_that_removes_nothing",
        "1:11",
        "no callback of that name to remove",
        "It has: LogRMSE",
        ["callbacks.EarlyStopping=null"],
    ),
    (
        "second_override",
        "2:14",
        "cannot take the text 'fast'",
        "a number",
        ["fit.epochs=1", "optimizer.lr=fast"],
    ),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the planted recipes, with Python files that cannot be run, as the working directory."""
    copy = shutil.copytree(PLANTED_FOLDER, tmp_path / "planted")
    (copy / "right.yaml").write_text(RIGHT)
    (copy / "broken.py").write_text("import torch\ndef f(:\n    pass\n")
    (copy / "exits.py").write_text("raise SystemExit('bye')\n")
    (copy / "relative.py").write_text("from .models import Line\n")
    (copy / "raises.py").write_text("import no_such_package\n")
    monkeypatch.chdir(copy)
    return copy


@pytest.mark.filterwarnings(
    "ignore:the targets are int64", "ignore:Using a target size", "ignore:can.t resolve package"
)
@pytest.mark.parametrize(
    ("name", "place", "words", "hint", "further"), PLANTED, ids=[row[0] for row in PLANTED]
)
def test_a_planted_mistake_is_reported_with_its_place_and_a_hint(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    place: str,
    words: str,
    hint: str,
    further: list[str],
):
    in_file = (folder / f"{name}.yaml").exists()
    recipe = f"{name}.yaml" if in_file else "right.yaml"
    code = main(["run", recipe, *further])
    shown = capsys.readouterr().err
    assert code == 2
    assert "Traceback" not in shown
    file = recipe if in_file else "command line"
    blocks = [block for block in shown.split("\n\n") if block.startswith(f"{file}:{place}: ")]
    assert blocks, shown
    unwrapped = re.sub(r"\s+", " ", blocks[0])
    assert words in unwrapped
    assert hint in unwrapped
    assert_caret(blocks[0].split("\n"), in_file, folder / recipe, further, place)
    assert not (folder / "runs").exists() or not list((folder / "runs").iterdir())


def assert_caret(lines: list[str], in_file: bool, path: Path, further: list[str], place: str) -> None:
    """The message has the line, with a caret below the character of that column."""
    row, column = map(int, place.split(":"))
    source = path.read_bytes().decode("utf-8", "replace").split("\n") if in_file else further
    letters = source[row - 1]
    caret = next(number for number, line in enumerate(lines) if line.strip() == "^")
    position = lines[caret].index("^")
    above = lines[caret - 1]
    if column <= len(letters) and letters[column - 1].isprintable():
        assert above[position] == letters[column - 1]
    piece = letters[max(0, column - 9) : column + 8].split("\t")[-1].strip()
    assert piece in above or not piece.isprintable()


def test_every_planted_recipe_has_a_row():
    rows = {row[0] for row in PLANTED}
    assert {path.stem for path in PLANTED_FOLDER.glob("*.yaml")} <= rows


def test_the_recipe_for_the_overrides_is_valid(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["run", "right.yaml"]) == 0
