"""The files of a recipe: where they may be, what they import, and where a run writes."""

from __future__ import annotations

import re
import sys
from types import ModuleType

import pytest
from upper.recipe_files import MODELS, problems_of

from learner.recipes.recipe import load_recipe


def test_a_link_out_of_the_folder_is_refused(write, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.py"
    outside.write_text(MODELS)
    path = write(("models.py:Net", "link.py:Net"))
    path.with_name("link.py").symlink_to(outside)
    assert "not in or below the recipe's folder" in problems_of(path)


def test_a_module_of_an_allowed_package_is_found(write):
    path = write(
        (
            "Progress: null",
            'mine: {use: "callbacks:StopOnNaN"}\n  Progress: null\n  StopOnNaN: null',
        )
    )
    assert "--allow callbacks" in problems_of(path)
    learn = load_recipe(path, allow=["callbacks"]).build()
    assert learn.callbacks.mine.name == "mine"


def test_a_recipe_alone_imports_nothing(write):
    before = set(sys.modules)
    problems_of(write(("models.py:line", "wave:open")))
    assert "wave" not in set(sys.modules) - before


def test_a_file_may_lie_below_the_recipe(write):
    path = write(("models.py:Net", "sub/models.py:Net"))
    (path.parent / "sub").mkdir()
    (path.parent / "sub" / "models.py").write_text(MODELS)
    assert load_recipe(path).build().model.n_hidden == 4


def test_a_module_is_kept_that_was_imported_through_a_link_into_the_folder(
    write, tmp_path_factory, monkeypatch
):
    path, elsewhere = write(), tmp_path_factory.mktemp("elsewhere")
    for name in ("linked_file", "linked_folder/inner"):
        target = path.parent / "own" / f"{name}.py"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("")
    (elsewhere / "linked_file.py").symlink_to(path.parent / "own" / "linked_file.py")
    (elsewhere / "to_folder").symlink_to(path.parent / "own" / "linked_folder")
    (elsewhere / "stranger.py").write_text("")
    for number, name in enumerate(("linked_file.py", "to_folder/inner.py", "stranger.py")):
        module = ModuleType(f"linked_{number}")
        module.__file__ = str(elsewhere / name)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    recipe = load_recipe(path)
    recipe.build()
    kept = [source.name for source in recipe.names.code.sources()]
    assert kept == ["helper.py", "models.py", "linked_file.py", "inner.py"]


def test_paths_with_spaces_and_letters_of_all_languages_work(write, tmp_path):
    source, folder = write().parent, tmp_path / ("a folder with späce 目录" + "x" * 150)
    folder.mkdir()
    for name in ("recipe.yaml", "models.py", "helper.py"):
        (folder / name).write_text((source / name).read_text())
    assert load_recipe(folder / "recipe.yaml").build().model.n_hidden == 4


def test_two_recipes_in_one_process_import_their_own_files_of_the_same_names(write, tmp_path):
    first, recipes = write().parent, []
    for name, width in (("a", 3), ("b", 7)):
        folder = tmp_path / name
        (folder / "parts").mkdir(parents=True)
        (folder / "recipe.yaml").write_text((first / "recipe.yaml").read_text())
        (folder / "helper.py").write_text("WIDTH = 5\n")
        (folder / "parts" / "sizes.py").write_text(f"WIDTH = {width}\n")
        code = (first / "models.py").read_text()
        (folder / "models.py").write_text(f"from parts.sizes import WIDTH as width\n{code}")
        recipes.append(load_recipe(folder / "recipe.yaml"))
    widths = []
    for recipe in (*recipes, recipes[0]):
        module = sys.modules[type(recipe.build().model).__module__]
        widths.append(module.width)
    assert widths == [3, 7, 3]
    names = [each.relative_to(tmp_path / "b").as_posix() for each in recipes[1].names.code.sources()]
    assert names == ["helper.py", "models.py", "parts/sizes.py"]


def test_an_import_in_a_function_finds_the_files_of_its_own_recipe_at_any_time(write, tmp_path):
    first, modules = write().parent, []
    late = "\n\ndef late():\n    import sizes\n    import helper\n    return sizes.WIDTH, helper.later()\n"
    for name, width in (("a", 3), ("b", 7)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipe.yaml").write_text((first / "recipe.yaml").read_text())
        later = "\n\ndef later():\n    import sizes\n    return sizes.WIDTH\n"
        (folder / "helper.py").write_text(f"WIDTH = 5\n{later}")
        (folder / "sizes.py").write_text(f"WIDTH = {width}\n")
        (folder / "models.py").write_text((first / "models.py").read_text() + late)
        learn = load_recipe(folder / "recipe.yaml").build()
        modules.append(sys.modules[type(learn.model).__module__])
    for _ in range(2):
        assert [module.late() for module in modules] == [(3, 3), (7, 7)]


def test_a_relative_path_is_resolved_once(write, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(write().parent)
    recipe = load_recipe("recipe.yaml")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert recipe.build().model.n_hidden == 4


CALLBACKS = "callbacks:\n  Progress: null\n"


@pytest.mark.parametrize(
    "line",
    [
        "  Checkpoint: {folder: ../../x}",
        "  Checkpoint: {folder: /x}",
        "  Checkpoint: {folder: a/../../x}",
        "  BlackBox: {folder: ..}",
        "  CSVLogger: {path: ../x.csv}",
        "  JSONLines: {path: '..\\x.jsonl'}",
        "  PlotSnapshots: {n: 2, path: 'C:\\x.png'}",
        "  When: {callback: {use: Checkpoint, folder: ../x}, until: 1 epoch}",
    ],
)
def test_a_recipe_writes_nothing_outside_of_the_runs_folder(line, write):
    written = " ".join(problems_of(write((CALLBACKS, f"{CALLBACKS}{line}\n"))).split())
    assert re.search(
        r"recipe.yaml:8:\d+: callbacks.*(folder|path): .* is not below the run's folder", written
    )


@pytest.mark.parametrize("folder", ["checkpoints", "a/b", "a/../b", "..b"])
def test_a_recipe_writes_where_it_likes_below_the_runs_folder(folder, write):
    path = write((CALLBACKS, f"{CALLBACKS}  Checkpoint: {{folder: {folder}}}\n"))
    assert str(load_recipe(path).build().callbacks.checkpoint.folder) == folder


def test_the_command_line_can_send_files_elsewhere(write, tmp_path):
    path = write((CALLBACKS, f"{CALLBACKS}  Checkpoint: {{folder: checkpoints}}\n"))
    recipe = load_recipe(path, [f"callbacks.Checkpoint.folder={tmp_path}/elsewhere"])
    assert recipe.build().callbacks.checkpoint.folder == tmp_path / "elsewhere"


STRANGER = """\
def try_to():
    try:
        import stray
    except ImportError:
        return None
    return stray
"""


OWN = """
import importlib
import neighbour_package.inner


class Late(nn.Linear):
    def __init__(self):
        super().__init__(1, 1)

    def forward(self, x):
        import neighbour_late
        importlib.import_module("neighbour_by_name")
        import library_of_others
        library_of_others.try_to()
        return super().forward(x)
"""


NEIGHBOURS = ("neighbour_package", "neighbour_package.inner", "neighbour_late", "neighbour_by_name")


def test_only_the_files_of_a_recipe_import_from_its_folder(write, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "library_of_others.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(str(elsewhere))
    path = write(('"models.py:Net", n_hidden: 4', '"models.py:Late"'))
    (path.parent / "models.py").write_text(MODELS + OWN)
    (path.parent / "neighbour_package").mkdir()
    for name in (
        "neighbour_package/__init__",
        "neighbour_package/inner",
        "neighbour_late",
        "neighbour_by_name",
    ):
        (path.parent / f"{name}.py").write_text("")
    (path.parent / "stray.py").write_text("raise SystemExit('a file that nobody named was run')")
    recipe = load_recipe(path)
    learn = recipe.build()
    with recipe.importable():
        learn.fit(1)
    found = [name for name in (*NEIGHBOURS, "library_of_others") if sys.modules.pop(name, None)]
    assert found == [*NEIGHBOURS, "library_of_others"]
    assert "stray" not in sys.modules


def test_a_recipe_without_python_files_makes_none_importable(write):
    path = write(
        ('"models.py:line", n: 6', "diabetes"),
        ('"models.py:Net", n_hidden: 4', "LazyLinear, out_features: 1"),
    )
    (path.parent / "stray.py").write_text("raise SystemExit('a file that nobody named was run')")
    before = list(sys.path), list(sys.meta_path)
    with load_recipe(path).importable(), pytest.raises(ImportError):
        import stray  # noqa: F401
    assert before == (list(sys.path), list(sys.meta_path))
