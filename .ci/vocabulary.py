"""Find words that this project does not use, and name those that it uses instead.

    python .ci/vocabulary.py                    # the whole project
    python .ci/vocabulary.py docs/loop.md learner

Each file is read whole: its name, identifiers, comments, docstrings, messages and prose. To quote the words
of another project, mark the line with `# vocabulary: quoted` or `<!-- vocabulary: quoted -->`; a line of
Markdown that begins with `>` is a quotation.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
KINDS = {".py", ".md", ".yaml", ".yml", ".toml", ".ipynb", ".cff"}

#: These quote words in order to name the right ones.
QUOTING = ["vocabulary.py", "test_vocabulary.py", "other_words.py"]

UNIT = "batch|epoch|step|update|pass|fit|item|commit|line|row"
AMOUNT = "idea|once|twice|times|lines?|rows?|steps?|[mun]s|seconds?|items?|bytes?|numbers?|updates?|outputs"

#: What not to write, as a pattern, and what to write. In identifiers `_` and a change of case separate words.
WORDS = {
    r"(?<!pytest )plug[- ]?ins?": "callback",
    r"doers?": "the callback that implements it",
    r"listeners?": "callback, or `listens to an event`",
    r"hear(s|d|ing)?": "is called, runs, fires",
    r"(?<!\.)tells?(?! (\w+ ){0,4}apart)|telling|told(?! apart)": "print, report, raise, warn, show, return",
    r"said|saying|says? of": "print, report, raise, warn, show, return",
    r"(the|'s|a|at) begin|begin of": "start",
    r"(go|goes|going|gone|went) on(?! (the|a) (gpu|cpu|device|disk))": "resume, continue",
    r"(is|are|was|were|be|been|being|never|wherever) cut(?! (off|short|from|into|to))": "interrupted, killed",
    r"cut in (the middle|mid)|(a|the|each|one) cut": "interrupted, an interruption",
    r"anew": "again, recompute",
    r"mend(s|ed|ing)?": "fix",
    r"cures?|cured": "fix, hint",
    r"(?<!page )(?<!segmentation )faults?(?! toleran)|faulty": "error, problem",
    r"(?<!there )(?-i:(is|are|was|were) none)": "is not a ..., is missing, is empty",
    r"(?<!there )(is|are|was|were) no(?! (longer|more|less|fewer|later|need|\w+er than))": "is not a ...",
    r"of whose|(?<!, )of which": "whose, that",
    r"hang(s|ing)? on|hung on": "depends on, because of",
    r"bears?(?! in mind)": "must be idempotent, allows",
    rf"({AMOUNT}) an? ({UNIT})(?! (has|holds|needs|takes|can|is|may|must|is|does|was))": "per ..., each ...",
    r"put(s|ting)? (\w+ ){0,3}back": "restore",
}
#: All of them in one pattern, which takes a third of the time of one search for each.
ANY = "|".join(f"(?P<word{n}>{words})" for n, words in enumerate(WORDS)).replace(" ", r"\s")
FORBIDDEN = re.compile(rf"(?<![\w-])(?:{ANY})(?!\w)", re.IGNORECASE)
INSTEAD = {f"word{n}": instead for n, instead in enumerate(WORDS.values())}


def findings(path: Path) -> Iterator[str]:
    """The forbidden words of a file, as `file:line: word -> instead`."""
    if path.name in QUOTING:
        return
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    for _, word, instead in forbidden(path.stem.replace("-", " ")):
        yield f"{shown}: the name has {word!r} -> {instead}"
    for line, word, instead in sorted(forbidden(read(path))):
        yield f"{shown}:{line}: {word!r} -> {instead}"


def read(path: Path) -> str:
    """A file's text, without the lines that quote."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join("" if is_quotation(line, path.suffix) else line for line in lines)


def is_quotation(line: str, suffix: str) -> bool:
    """Does the line quote words of somebody else?"""
    return "vocabulary: quoted" in line or (suffix == ".md" and line.startswith(">"))


def forbidden(text: str) -> Iterator[tuple[int, str, str]]:
    """Each forbidden word of a text: its line, the word, what to write instead."""
    text = spaced(text)
    for found in FORBIDDEN.finditer(text):
        word = " ".join(found.group().split())
        yield text.count("\n", 0, found.start()) + 1, word, INSTEAD[found.lastgroup or ""]


def spaced(text: str) -> str:
    """The text with the words of identifiers apart, and lines that nothing but a line break keeps apart."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", text.replace("_", " "))
    return re.sub(r'[ \t]*"?[ \t]*\n[ \t]*(#:? |f?")?', "\n", text)


def files(paths: Sequence[str]) -> Iterator[Path]:
    """The text files at or below some paths, except those of builds, caches and runs."""
    for each in (ROOT / path for path in paths):
        if not each.exists():
            raise SystemExit(f"vocabulary: {each} does not exist")
        if each.is_file():
            yield each
        for folder, inner, names in os.walk(each):
            inner[:] = sorted(name for name in inner if is_ours(Path(folder, name)))
            yield from (Path(folder, name) for name in sorted(names) if Path(name).suffix in KINDS)


def is_ours(folder: Path) -> bool:
    """Does a folder hold files that people write?"""
    if folder.parent in (ROOT, ROOT / "examples") and folder.name == "runs":
        return False
    is_hidden = folder.name.startswith(".") and folder.name not in (".ci", ".github")
    return not is_hidden and folder.name not in ("__pycache__", "_build", "build", "dist")


def main(paths: Sequence[str]) -> int:
    """Print what is found; the exit code is 1 if there is any."""
    found = [line for path in files(paths or ["."]) for line in findings(path)]
    print(*found, sep="\n", end="\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
