"""YAML to a tree that knows where everything stands, with YAML's traps closed."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from learner.recipes.recipe_errors import Fault, Place, RecipeError

MAX_BYTES = 200_000  # a recipe is a page of text; more is another kind of file
MAX_DEPTH = 20
LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # what PyYAML counts as one

# Plain words that are no text, tried in this order: YAML 1.2's, and underscores in numbers as in Python.
# YAML 1.1 would take `on` and `no` for booleans, `1e-3` for text, `12:30` for 750, `010` for 8.
PATTERNS = {
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?[0-9][0-9_]*"),
    "float": re.compile(
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    ),
}

MISSING_COLON = "Write `key: value`: a colon and a space after each key."

# PyYAML's words, and what people did who met them.
REMEDIES = (
    ("a tab", "Indent with spaces: YAML takes no tabs."),
    ("cannot start any token", "A value that begins with this character needs quotes."),
    ("mapping values are not", 'Is the line indented as its neighbours, and is a value with ": " in quotes?'),
    ("could not find expected ':'", MISSING_COLON),
    ("expected <block end>", "Give all keys of one level the same indentation, in spaces."),
    ("expected ',' or '}'", "Put a comma between the pairs, and close the { with a }."),
    ("expected ',' or ']'", "Put a comma between the items, and close the [ with a ]."),
    ("unexpected end of stream", "A quote is opened and never closed."),
    ("escape", "Write paths in 'single quotes', in which a backslash is a backslash."),
    ("another document", "A recipe is one document: leave the second --- out, and what follows it."),
)


@dataclass
class Node:
    """A value of a recipe and where it stands.

    Attributes:
        value: None, a bool, an int, a float, a str, a list of nodes, or a dict of nodes by key.
        place: where the value begins.
        key_place: where its key stands; of a list's items and of the whole, where the value begins.
        written: False where nothing stands after the colon, which reads as None too.
        replaced: an override put it in the place of another.
    """

    value: Any
    place: Place
    key_place: Place
    written: bool = True
    replaced: bool = False

    def plain(self) -> Any:
        """The value with all that it holds as plain Python."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def read_recipe(path: Path, shown: str | None = None) -> Node:
    """The tree of a recipe's file.

    Args:
        path: the file.
        shown: the path as messages show it.

    Raises:
        RecipeError: the file is no recipe; the faults say where and why.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        n_bytes = os.fstat(file.fileno()).st_size  # 0 of what is no ordinary file
        content = file.read(MAX_BYTES + 1)
    return parse(decode(content, shown or str(path), n_bytes), shown or str(path))


def decode(content: bytes, file: str, n_bytes: int = 0) -> str:
    """The text of a file in UTF-8, without the byte order mark that some editors write.

    Args:
        content: of the file; of one that is too large, its beginning.
        file: as messages show it.
        n_bytes: how many bytes the file has, where `content` is not all.

    Raises:
        RecipeError: it is too large, or is not text.
    """
    if len(content) > MAX_BYTES:
        place = Place(file, 1, 1, content[:80].decode("utf-8", "replace").split("\n")[0])
        n_bytes = max(n_bytes, len(content))
        message = f"this file has {n_bytes:,} bytes or more; a recipe has at most {MAX_BYTES:,}"
        raise RecipeError([Fault(place, message, "Is it the right file? Keep data in files of their own.")])
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
    raise RecipeError([Fault(place, f"this is no text: it has {what}", hint)])


def place_at(text: str, position: int, file: str) -> Place:
    """The place of a character of a text, told by its number from 0."""
    before = LINE_BREAK.split(text[:position])
    return Place(file, len(before), len(before[-1]) + 1, LINE_BREAK.split(text)[len(before) - 1])


def parse(text: str, file: str, *, shown: str | None = None, line: int = 1) -> Node:
    """The tree of a recipe's text.

    Args:
        text: YAML.
        file: what places name as their file.
        shown: of one line, what places show in its stead.
        line: number of the first line.

    Raises:
        RecipeError: it is no YAML, or has what recipes do not have: keys twice, aliases, tags, merges.
    """
    try:
        loader = Loader(text, file, shown, line)
    except yaml.reader.ReaderError as error:  # characters that YAML forbids
        place = place_at(text, int(error.position), file)
        hint = "Leave it out, or write it within double quotes as an escape."
        raise RecipeError([Fault(place, f"YAML has no such character: {error.reason}", hint)]) from None
    try:
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise RecipeError([loader.explain(error)]) from None
    finally:
        loader.dispose()
    start = Place(file, line, 1, loader.lines[0])
    tree = Node(None, start, start, written=False) if root is None else loader.tree(root)
    if loader.faults:
        raise RecipeError(loader.faults)
    return tree


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader up to its nodes; what a plain word is, and what is refused, is ours.

    Args:
        text: YAML.
        file: what places name as their file.
    """

    def __init__(self, text: str, file: str, shown: str | None = None, line: int = 1):
        super().__init__(text)
        self.file, self.depth, self.first_line = file, 0, line
        self.lines = LINE_BREAK.split(text) if shown is None else [shown]
        self.faults: list[Fault] = []

    def place(self, mark: Any) -> Place:
        """Where a mark of PyYAML's stands."""
        line = min(mark.line, len(self.lines) - 1)
        text = self.lines[line]
        return Place(
            self.file, line + self.first_line, mark.column + 1 if line == mark.line else len(text) + 1, text
        )

    def explain(self, error: yaml.MarkedYAMLError) -> Fault:
        """A complaint of PyYAML's as a fault, with what probably went wrong."""
        problem = (error.problem or "a mistake").replace("'\\t'", "a tab").removeprefix("but ")
        mark: Any = error.problem_mark or error.context_mark
        before = self.lines[max(0, mark.line - 1)].split(" #")[0]
        if "mapping values are not" in problem and mark.line and not re.search(r":(\s|$)|^\s*#", before):
            place = self.place(mark)
            column = len(before) - len(before.lstrip()) + 1
            place = Place(self.file, place.line - 1, column, self.lines[place.line - 2])
            return Fault(place, "this line has no colon with a space after it", MISSING_COLON)
        hints = [hint for words, hint in REMEDIES if words in problem]
        first: Any = error.context_mark or mark
        since = f", in what begins in line {first.line + 1}" if first.line != mark.line else ""
        hint = hints[0] if hints else "Values that begin with one of @`%&*!|>{}[],?#- need quotes."
        if "expected ':'" in problem:
            mark, since = first, ""
        return Fault(self.place(mark), f"this is no YAML: {problem}{since}", hint)

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse aliases, which can make a small file endless, and nests that no recipe needs."""
        event: Any = self.peek_event()
        anchor = getattr(event, "anchor", None)
        if anchor:
            message = f"recipes have no anchors and aliases, as this {anchor!r}"
            hint = "Write the value out; one that begins with & or * needs quotes."
            raise RecipeError([Fault(self.place(event.start_mark), message, hint)])
        if self.depth >= MAX_DEPTH:
            message = f"more than {MAX_DEPTH} levels of brackets or indentation"
            hint = "Build what needs so many in a Python file, and name it with `use:`."
            raise RecipeError([Fault(self.place(event.start_mark), message, hint)])
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """The tag of a node: of words always that of text, whose meaning `as_scalar` finds."""
        return super().resolve(kind, value, (False, False))

    def tree(self, node: Any, key_place: Place | None = None) -> Node:
        """PyYAML's nodes as ours; faults are collected."""
        place = self.place(node.start_mark)
        key_place = key_place or place
        if not is_plain_tag(node):
            message = f"recipes have no tags, as {node.tag}"
            self.faults.append(Fault(place, message, "Leave the ! and its word out."))
        if isinstance(node, yaml.MappingNode):
            return Node(self.pairs(node), place, key_place)
        if isinstance(node, yaml.SequenceNode):
            return Node([self.tree(item) for item in node.value], place, key_place)
        if node.style is not None:
            return Node(node.value, place, key_place)
        return Node(as_scalar(node.value), place, key_place, written=node.value != "")

    def pairs(self, node: Any) -> dict[str, Node]:
        """A mapping's nodes by key; a key twice, `<<` and keys that are no words are faults."""
        found: dict[str, Node] = {}
        for key_node, value_node in node.value:
            place = self.place(key_node.start_mark)
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                message = "a key is a word, and this is a list or mapping"
                self.faults.append(Fault(place, message, "Write `key: value`."))
                continue
            if key == "<<":
                self.faults.append(Fault(place, "recipes have no merge keys (<<)", "Write the keys out."))
                continue
            if key in found:
                first = found[key].key_place.line
                message = f"the key {key!r} stands here a second time; the first is in line {first}"
                self.faults.append(Fault(place, message, "Leave one of them out."))
            found[key] = self.tree(value_node, place)
        return found


def is_plain_tag(node: Any) -> bool:
    """Was no tag written? PyYAML gives its default ones to all nodes without."""
    return node.tag in (
        "tag:yaml.org,2002:str",
        "tag:yaml.org,2002:map",
        "tag:yaml.org,2002:seq",
    )


def as_scalar(word: str) -> Any:
    """What a plain word means: None, a bool, an int, a float, or the word itself."""
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
    """PyYAML's safe dumper that quotes what our loader would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Text, in quotes where it would be read as a number, a bool or nothing, here or by YAML 1.1."""
    resolved = yaml.SafeLoader("").resolve(yaml.ScalarNode, text, (True, False))
    style = None if as_scalar(text) == text and resolved.endswith(":str") else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(str, represent_text)


def dump(plain: Any) -> str:
    """YAML of plain Python that reads back as the same."""
    return yaml.dump(
        plain, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )
