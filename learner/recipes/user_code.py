"""Names in the user's own code: `file.py:Name` next to a recipe, `package.module:Name` if allowed."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import traceback
import zlib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

from learner.files.imported import imported_from
from learner.recipes.beside import Beside
from learner.recipes.recipe_errors import closest, did_you_mean

BESIDE = 'Put the code in a Python file next to the recipe, as in `use: "models.py:Net"`.'


class UnusableName(ValueError):
    """A name that cannot be used, with the reason and a fix."""

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message, self.hint = message, hint


class UserCode:
    """The Python files next to a recipe, and the packages in `allow`, from which names may be imported.

    A file is run once, when the first name in it is looked up. No other code is run.
    """

    def __init__(self, folder: Path, allow: Iterable[str] = ()):
        self.folder, self.allow = folder.resolve(), tuple(allow)
        self.files: dict[Path, ModuleType] = {}
        self.beside = Beside(self.folder)

    def find(self, name: str) -> Any:
        """Resolve `file.py:Name` or `package.module:Name`.

        Raises:
            UnusableName: it does not exist, is not allowed, or its file raises an error.
        """
        module_name, _, attribute = name.partition(":")
        if not attribute.isidentifier():
            raise UnusableName(f"{name!r} has no valid name after the colon", 'Write `use: "models.py:Net"`.')
        if module_name.endswith(".py"):
            return self._from_file(module_name, attribute)
        return self._from_package(module_name, attribute)

    def hint_beside(self, name: str) -> str | None:
        """What to write for `models.Net` or `models.py`, if there is a `models.py` next to the recipe."""
        start, _, attribute = name.rpartition(".")
        file, attribute = (name, "Net") if attribute == "py" else (f"{start.replace('.', '/')}.py", attribute)
        is_there = start and attribute.isidentifier() and (self.folder / file).is_file()
        return f'Write `use: "{file}:{attribute}"`, the file and a name in it.' if is_there else None

    def _from_file(self, file: str, attribute: str) -> Any:
        path = self._path(file)
        if path not in self.files:
            self.files[path] = self._run(path, file)
        module = self.files[path]
        found = self._attribute(module, file, attribute)
        if not self._is_own(found, module):
            raise UnusableName(
                f"{attribute} is not defined in {file}: it is {full_name(found)}",
                f"Define a class or function in {file}, or use the name of the imported one.",
            )
        return found

    def _is_own(self, found: Any, module: ModuleType) -> bool:
        """Is it defined in this file, or in another one of the recipe's folder?"""
        if isinstance(found, ModuleType):
            return False
        if not (isinstance(found, type) or inspect.isroutine(found)) or found.__module__ == module.__name__:
            return True
        name = str(found.__module__)
        source = getattr(self.beside.modules.get(name) or sys.modules.get(name), "__file__", None)
        return source is not None and Path(source).resolve() in self.sources()

    def _path(self, file: str) -> Path:
        """The file's real path, in or below the recipe's folder."""
        path = (self.folder / file).resolve()
        if "\\" in file:
            raise UnusableName(
                f"{file!r} has a backslash", f"Write {file.replace(chr(92), '/')!r}, even on Windows."
            )
        if Path(file).is_absolute() or ".." in Path(file).parts or not path.is_relative_to(self.folder):
            raise UnusableName(f"{file!r} is not in or below the recipe's folder", BESIDE)
        if not path.is_file():
            beside = sorted(each.name for each in self.folder.glob("*.py"))
            hint = did_you_mean(file, beside, all_of="Python files next to the recipe")
            raise UnusableName(f"there is no file {file!r} next to the recipe", hint)
        return path

    def _run(self, path: Path, file: str) -> ModuleType:
        """Run a file as a module of the file's name, so that other files and workers can import it."""
        module = ModuleType(self._module_name(path))
        module.__file__ = str(path)
        module.__dict__["__builtins__"] = self.beside.builtins
        before = sys.modules.get(module.__name__)
        sys.modules[module.__name__] = module
        self.beside.add(path)
        if module.__name__ != path.stem and path.parent == self.folder:
            self.beside.modules[path.stem] = module  # another recipe's module has the name
        try:
            with self.importable():
                exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
        except (Exception, SystemExit) as error:
            if before is None:
                del sys.modules[module.__name__]
            else:
                sys.modules[module.__name__] = before
            raise UnusableName(
                f"{file} cannot be run: {describe_error(error, self.folder)}", fix_hint(error)
            ) from error
        return module

    def _module_name(self, path: Path) -> str:
        """The file's own name, or a longer one if another module has that name."""
        name = re.sub(r"\W", "_", path.stem)
        there = sys.modules.get(name)
        if there is not None and Path(getattr(there, "__file__", None) or "").resolve() == path:
            return name
        try:
            spec = importlib.util.find_spec(name) if there is None else there.__spec__
        except (ImportError, ValueError):
            spec = None
        free = there is None and (spec is None or Path(spec.origin or "").resolve() == path)
        return name if free else f"{name}_{zlib.crc32(str(path).encode()):x}"

    def importable(self) -> AbstractContextManager[None]:
        """A context in which the named files can import the files next to them."""
        return self.beside.open()

    def _from_package(self, module_name: str, attribute: str) -> Any:
        package = module_name.partition(".")[0]
        if not all(part.isidentifier() for part in module_name.split(".")):
            raise UnusableName(f"{module_name!r} is neither a Python file nor a module", BESIDE)
        if not any(is_within(module_name, each) for each in self.allow):
            file = f"{module_name.replace('.', '/')}.py"
            if (self.folder / file).is_file():
                raise UnusableName(
                    f"{module_name!r} is not a package, but a file next to the recipe",
                    f'Write `use: "{file}:{attribute}"`.',
                )
            raise UnusableName(
                f"{module_name}:{attribute} is in a package, which a recipe may not import by itself",
                f"If you trust this recipe with it, add `--allow {package}`. {BESIDE}",
            )
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            described = describe_error(error, self.folder)
            raise UnusableName(f"{module_name} cannot be imported: {described}", fix_hint(error)) from error
        found = self._attribute(module, module_name, attribute)
        home = str(getattr(found, "__module__", ""))
        if isinstance(found, ModuleType) or not any(is_within(home, each) for each in self.allow):
            raise UnusableName(
                f"{attribute} in {module_name} is not from an allowed package: it is {full_name(found)}",
                f"Allowed packages: {', '.join(self.allow)}.",
            )
        return found

    def _attribute(self, module: ModuleType, shown: str, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise UnusableName(f"{attribute} is a special name of Python", "Name a class or a function.")
        if not hasattr(module, attribute):
            names = [name for name, value in vars(module).items() if own_name(module, name, value)]
            raise UnusableName(
                f"{shown} has no {attribute}", did_you_mean(attribute, names, all_of=f"{shown} has")
            )
        return getattr(module, attribute)

    def sources(self) -> list[Path]:
        """The Python files in the recipe's folder that were run, including those that were imported."""
        if not self.files:
            return []
        hidden = {Path(each.__file__) for each in self.beside.modules.values() if each.__file__}
        return sorted(set(self.files) | imported_from(self.folder) | hidden)


def is_within(module: str, package: str) -> bool:
    """Is the module the package itself, or in it?"""
    return module == package or module.startswith(f"{package}.")


def own_name(module: ModuleType, name: str, value: Any) -> bool:
    """Is it a public class or function that the module defines?"""
    return not name.startswith("_") and getattr(value, "__module__", None) == module.__name__


def full_name(found: Any) -> str:
    """Module and name of a class or function, for messages."""
    if isinstance(found, ModuleType):
        return f"the module {found.__name__}"
    title = getattr(found, "__qualname__", type(found).__qualname__)
    return f"{getattr(found, '__module__', None) or type(found).__module__}.{title}"


def describe_error(error: BaseException, folder: Path) -> str:
    """Describe an error: its type and message, and the line if it is in a user's file."""
    return own_line(error, folder) or f"{type(error).__name__}: {error}"


def own_line(error: BaseException, folder: Path) -> str | None:
    """Describe an error in a user's file: the line, the type and the message; None for other errors."""
    if isinstance(error, SyntaxError) and error.filename:
        name, line = error.filename, error.lineno
        source = (error.text or "").strip()
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if Path(frame.filename).resolve().is_relative_to(folder)]
        if not own:
            return None
        name, line, source = own[-1].filename, own[-1].lineno, own[-1].line
    path = Path(name).resolve()
    shown = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else name
    words = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{shown}, line {line}: {type(error).__name__}: {words}\n    {shown}:{line}:  {source}"


def in_words(error: BaseException, folder: Path) -> tuple[str, str]:
    """The message of an error, and how to fix it; the message of a refusal of ours says that itself."""
    is_refusal = isinstance(error, (ValueError, TypeError, ImportError)) and own_line(error, folder) is None
    return (
        (str(error), differ_hint(error)) if is_refusal else (describe_error(error, folder), fix_hint(error))
    )


def differ_hint(error: BaseException) -> str:
    """The options for the differences that the error of a resume allows; empty for other errors."""
    allowed = re.search(r"allow=\(([^)]*)\)", str(error))
    names = re.findall(r"\w+", allowed[1]) if allowed else []
    return f"On the command line: {' '.join(f'--differ {name}' for name in names)}." if names else ""


def fix_hint(error: BaseException) -> str:
    """Suggest how to fix an error in a user's file."""
    if isinstance(error, ModuleNotFoundError):
        near = closest(str(error.name), sys.modules)
        return f"Install {error.name}, or fix the import." + (f" Did you mean {near}?" if near else "")
    if isinstance(error, SystemExit):
        return 'It ends the process: put what only a script does below `if __name__ == "__main__":`.'
    if isinstance(error, ImportError) and "relative import" in str(error):
        return "Write the names of folders from that of the recipe, as in `from folder.file import name`."
    return "Fix the file; `--traceback` shows the whole error."
