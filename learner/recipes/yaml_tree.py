"""Parse YAML into a tree whose nodes know their place. Values that YAML would misread are errors here."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from learner.recipes.recipe_errors import LINE_BREAK, Place, Problem, RecipeError, place_at

MAX_BYTES = 200_000  # a recipe is a page of text; a larger file is something else
MAX_DEPTH = 20

# Unquoted values that are not text, tried in this order, as in YAML 1.2; numbers may have underscores.
# YAML 1.1 would read `on` and `no` as booleans, `1e-3` as text, `12:30` as 750, `010` as 8.
PATTERNS = {
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?[0-9][0-9_]*"),
    "float": re.compile(
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    ),
}

#: The tags that PyYAML gives to nodes without a tag.
PLAIN_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq"))

MISSING_COLON = "Write `key: value`: a colon and a space after each key."

# Words in PyYAML's messages, and what usually causes them.
HINTS = (
    ("a tab", "Indent with spaces: YAML does not allow tabs."),
    ("cannot start any token", "A value that starts with this character needs quotes."),
    ("mapping values are not", 'Indent the line like its neighbours, and put a value with ": " in quotes.'),
    ("could not find expected ':'", MISSING_COLON),
    ("expected <block end>", "Give all keys of one level the same indentation, in spaces."),
    ("expected ',' or '}'", "Put a comma between the pairs, and close the { with a }."),
    ("expected ',' or ']'", "Put a comma between the items, and close the [ with a ]."),
    ("unexpected end of stream", "A quote is opened but not closed."),
    ("escape", "Write paths in 'single quotes', in which a backslash is a backslash."),
    ("another document", "A recipe is one document: remove the second --- and what follows it."),
)


@dataclass
class Node:
    """A value of a recipe, with its place."""

    value: Any  #: None, a bool, an int, a float, a str, a list of nodes, or a dict of nodes by key
    place: Place  #: where the value starts
    key_place: Place  #: where its key starts; `place`, if it has no key
    written: bool = True  #: False if there is nothing after the colon, which also means None
    replaced: bool = False  #: True if it comes from an override and replaces another value

    def plain(self) -> Any:
        """The value and its content as plain Python."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def read_recipe(path: Path, shown: str | None = None) -> Node:
    """Read a recipe's file into a tree; messages show the path `shown`."""
    with path.open("rb") as file:
        n_bytes = os.fstat(file.fileno()).st_size  # 0 if it is not a regular file
        content = file.read(MAX_BYTES + 1)
    return parse(decode(content, shown or str(path), n_bytes), shown or str(path))


def decode(content: bytes, file: str, n_bytes: int = 0) -> str:
    """Decode a file in UTF-8; the byte order mark that some editors write is dropped.

    If the file is too large, `content` is its first part, and `n_bytes` its size.
    """
    if len(content) > MAX_BYTES:
        raise too_large(content, file, n_bytes)
    try:
        text = content.decode("utf-8-sig")
        bad = re.search("[\x00-\x08\x0e-\x1f\x7f]", text)
        if bad is None:
            return text
        start, what = len(text[: bad.start()].encode()), f"the character {bad.group()!r}"
    except UnicodeDecodeError as error:
        start, what = error.start, f"the byte 0x{content[error.start]:02x}, which is not UTF-8"
    place = place_at(
        content.decode("utf-8", "replace"), len(content[:start].decode("utf-8", "replace")), file
    )
    hint = "A recipe is a text file: save it as UTF-8. Is this the right file?"
    raise RecipeError.at(place, f"this is not a text file: it has {what}", hint)


def too_large(content: bytes, file: str, n_bytes: int) -> RecipeError:
    """The error for a file that is too large for a recipe."""
    place = Place(file, 1, 1, content[:80].decode("utf-8", "replace").split("\n")[0])
    message = (
        f"this file has {max(n_bytes, len(content)):,} bytes or more; a recipe has at most {MAX_BYTES:,}"
    )
    return RecipeError.at(place, message, "Is this the right file? Keep data in other files.")


def parse(text: str, file: str, *, shown: str | None = None, line: int = 1) -> Node:
    """Parse a recipe's text into a tree. If the text is one line, places show the line `shown`."""
    try:
        loader = Loader(text, file, shown, line)
    except yaml.reader.ReaderError as error:  # characters that YAML forbids
        place = place_at(text, int(error.position), file)
        hint = "Remove it, or write it as an escape in double quotes."
        message = f"YAML does not allow this character: {error.reason}"
        raise RecipeError.at(place, message, hint) from None
    try:
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise RecipeError([loader.explain(error)]) from None
    finally:
        loader.dispose()
    start = Place(file, line, 1, loader.lines[0])
    tree = Node(None, start, start, written=False) if root is None else loader.tree(root)
    if loader.problems:
        raise RecipeError(loader.problems)
    return tree


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, used up to its nodes. How words are read, and what is refused, is our own."""

    def __init__(self, text: str, file: str, shown: str | None = None, line: int = 1):
        super().__init__(text)
        self.file, self.depth, self.first_line = file, 0, line
        self.lines = LINE_BREAK.split(text) if shown is None else [shown]
        self.problems: list[Problem] = []

    def problem(self, place: Place, message: str, hint: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(place, message, hint))

    def place(self, mark: Any) -> Place:
        """Convert one of PyYAML's marks."""
        line = min(mark.line, len(self.lines) - 1)
        text = self.lines[line]
        return Place(
            self.file, line + self.first_line, mark.column + 1 if line == mark.line else len(text) + 1, text
        )

    def explain(self, error: yaml.MarkedYAMLError) -> Problem:
        """Convert one of PyYAML's errors, with a hint about the probable cause."""
        problem = (error.problem or "a mistake").replace("'\\t'", "a tab").removeprefix("but ")
        mark: Any = error.problem_mark or error.context_mark
        before = self.lines[max(0, mark.line - 1)].split(" #")[0]
        if "mapping values are not" in problem and mark.line and not re.search(r":(\s|$)|^\s*#", before):
            place = self.place(mark)
            column = len(before) - len(before.lstrip()) + 1
            place = Place(self.file, place.line - 1, column, self.lines[place.line - 2])
            return Problem(place, "this line has no colon with a space after it", MISSING_COLON)
        hints = [hint for words, hint in HINTS if words in problem]
        first: Any = error.context_mark or mark
        since = f", in the block that starts in line {first.line + 1}" if first.line != mark.line else ""
        hint = hints[0] if hints else "Values that start with one of @`%&*!|>{}[],?#- need quotes."
        if "expected ':'" in problem:
            mark, since = first, ""
        return Problem(self.place(mark), f"this is not valid YAML: {problem}{since}", hint)

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse aliases, which can make a small file endless, and deep nesting, which no recipe needs."""
        event: Any = self.peek_event()
        anchor = getattr(event, "anchor", None)
        if anchor:
            message = f"a recipe cannot have anchors and aliases such as {anchor!r}"
            hint = "Write the value in full; a text that starts with & or * needs quotes."
            raise RecipeError.at(self.place(event.start_mark), message, hint)
        if self.depth >= MAX_DEPTH:
            message = f"more than {MAX_DEPTH} levels of brackets or indentation"
            hint = "Build this part in a Python file, and name it with `use:`."
            raise RecipeError.at(self.place(event.start_mark), message, hint)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """The tag of a node. Every word gets the tag of text; `as_scalar` finds its value."""
        return super().resolve(kind, value, (False, False))

    def tree(self, node: Any, key_place: Place | None = None) -> Node:
        """Convert PyYAML's nodes to ours, and collect problems."""
        place = self.place(node.start_mark)
        key_place = key_place or place
        if node.tag not in PLAIN_TAGS:
            message = f"a recipe cannot have tags such as {node.tag}"
            self.problem(place, message, "Remove the ! and the word after it.")
        if isinstance(node, yaml.MappingNode):
            return Node(self.pairs(node), place, key_place)
        if isinstance(node, yaml.SequenceNode):
            return Node([self.tree(item) for item in node.value], place, key_place)
        if node.style is not None:
            return Node(node.value, place, key_place)
        return Node(as_scalar(node.value), place, key_place, written=node.value != "")

    def pairs(self, node: Any) -> dict[str, Node]:
        """A mapping's nodes by key. Duplicate keys, `<<`, and keys that are not words are problems."""
        found: dict[str, Node] = {}
        for key_node, value_node in node.value:
            place = self.place(key_node.start_mark)
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                message = "a key must be a word, and this is a list or mapping"
                self.problem(place, message, "Write `key: value`.")
                continue
            if key == "<<":
                self.problem(place, "a recipe cannot have merge keys (<<)", "Write the keys in full.")
                continue
            if key in found:
                first = found[key].key_place.line
                message = f"duplicate key {key!r}; the first is in line {first}"
                self.problem(place, message, "Remove one of them.")
            found[key] = self.tree(value_node, place)
        return found


def as_scalar(word: str) -> Any:
    """The value of an unquoted word: None, a bool, an int, a float, or the word itself."""
    if PATTERNS["null"].fullmatch(word):
        return None
    if PATTERNS["bool"].fullmatch(word):
        return word.lower() == "true"
    if PATTERNS["int"].fullmatch(word) and len(word) < 400:
        return int(word.replace("_", ""))
    if PATTERNS["float"].fullmatch(word):
        return float(word.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
    return word


class Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which quotes text that our loader would read as another type."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Text, in quotes if we or YAML 1.1 would read it as a number, a bool or null."""
    resolved = yaml.SafeLoader("").resolve(yaml.ScalarNode, text, (True, False))
    style = None if as_scalar(text) == text and resolved.endswith(":str") else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(str, represent_text)


def dump(plain: Any) -> str:
    """Write plain Python as YAML that reads back as the same."""
    return yaml.dump(
        plain, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )
