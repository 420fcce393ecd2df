"""Settings of the documentation: `sphinx-build -W -b html docs docs/_build/html`."""

import os
import re
import sys
import tomllib
from dataclasses import is_dataclass
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import index
from sphinx.ext.autodoc import preserve_defaults
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from learner.cli.commands import make_parser

DOCS = Path(__file__).resolve().parent

project = "plainlearner"
author = "The plainlearner authors"
copyright = author

release = "unreleased"  # stands under the name; for the pages of a release: sphinx-build -D release=0.2.0

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
suppress_warnings = ["config.cache"]

html_theme = "furo"
html_title = "plainlearner"
html_theme_options = {"top_of_page_buttons": []}
html_static_path = ["_static"]
html_css_files = ["plainlearner.css"]
html_js_files = ["break_names.js"]
html_search_scorer = str(DOCS / "search_scorer.js")
templates_path = ["_templates"]
pygments_style = "default"
pygments_dark_style = "github-dark"

copybutton_selector = "div:not(.highlight-output, .highlight-text) > div.highlight > pre"
copybutton_prompt_text = r"\$ |>>> |\.\.\. "  # of a block with prompts, only what follows them is copied
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"
copybutton_copy_empty_lines = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

add_module_names = False
python_maximum_signature_line_length = 90
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_use_ivar = True


logger = logging.getLogger(__name__)
read_defaults = preserve_defaults.update_defvalue


def read_own_defaults(app, obj, bound_method):
    """Read the defaults of a function from its source, except where fastcore's `delegates` has added some."""
    function = obj.__init__ if isinstance(obj, type) else obj
    if not {"__delwrap__", "__signature__"} & {*getattr(function, "__dict__", {})}:
        read_defaults(app, obj, bound_method)


preserve_defaults.update_defvalue = read_own_defaults

PLAIN = ("attribute", "data", "property")
plain_docstrings = {}


def mark_names(app, what, name, obj, options, lines):
    """Make literals of `names` in backticks, also where a letter follows; keep attributes' text for later."""
    lines[:] = re.sub(r"(?<!`)`([^`]+)`(?=(\w?))", mark_name, "\n".join(lines)).split("\n")
    for i in range(1, len(lines)):
        if lines[i - 1].strip() == "Returns:":  # or napoleon reads a type before the first colon
            lines[i] = re.sub(r"\S", r": \g<0>", lines[i], count=1)
    if what in PLAIN:
        plain_docstrings[name] = list(lines)


def mark_name(found):
    return f"``{found[1]}``" + ("\\ " if found[2] else "")


def restore_plain(app, what, name, obj, options, lines):
    """Restore an attribute's text: napoleon reads the part before the first colon as its type."""
    if what in PLAIN:
        lines[:] = plain_docstrings.pop(name)


def remove_learn(app, what, name, obj, options, lines):
    """Remove `learn` from the parameters of the learner's methods, because some are functions elsewhere."""
    if name.startswith("learner.Learner."):
        lines[:] = [line for line in lines if not line.startswith(":param learn:")]


def mark_code(app, what, name, obj, options, lines):
    """Show indented text after a blank line as Python, not as a quotation."""
    in_section = False
    for i, line in enumerate(list(lines)):
        if line.startswith((":", "..")):
            in_section = True
        starts = line.startswith("    ") and i > 0 and not lines[i - 1].strip()
        if starts and not in_section and not any(part.startswith(".. code-block") for part in lines[:i]):
            lines[i:i] = [".. code-block:: python", ""]


FORMER_ARGUMENTS = r", (plugin: [^,]*|update: [^,]*, '[^,]*) = None"  # vocabulary: quoted


def clean_signature(app, what, name, obj, options, signature, returns):
    """Show no former arguments, and none at all of what users do not construct: results, and `Metric`."""
    is_result = is_dataclass(obj) and (name.count(".") > 1 or name == "learner.CrossValidation")
    if is_result or name == "callbacks.Metric":
        return "", returns
    plain = (
        (signature or "")
        .replace("~typing.", "")
        .replace("<class 'torch.optim.adam.Adam'>", "torch.optim.Adam")
    )
    return re.sub(FORMER_ARGUMENTS, "", plain), returns


def skip_former(app, what, name, obj, skip, options):
    """Skip what is deprecated."""
    return True if re.match("The (former|old) name of", getattr(obj, "__doc__", None) or "") else None


def add_search_words(app, document):
    """Add the words of `search_words.toml` to the index, as main entries, which the search ranks first."""
    env = app.env
    env.note_dependency("search_words.toml")
    table = tomllib.loads((DOCS / "search_words.toml").read_text(encoding="utf-8"))
    for place, words in table.items():
        page, _, anchor = place.partition("#")
        if page == env.docname:
            if anchor and anchor not in document.ids:
                logger.warning("search_words.toml: the page %s has no heading #%s", page, anchor)
            entries = [("single", word, anchor, "main", None) for word in words]
            document.append(index(entries=entries, inline=False))


class DarkPictures(SphinxTransform):
    """Show `X_dark.png` instead of `X.png` on dark pages, where there is such a file."""

    default_priority = 500

    def apply(self, **options):
        folder = Path(self.env.doc2path(self.env.docname)).parent
        for image in list(self.document.findall(nodes.image)):
            uri = image["uri"].replace(".png", "_dark.png")
            if uri != image["uri"] and (folder / uri).is_file():
                dark = image.deepcopy()
                dark["uri"] = uri
                dark["classes"].append("only-dark")
                image["classes"].append("only-light")
                image.parent.insert(image.parent.index(image) + 1, dark)


def write_help(app, docname, source):
    """Add the help of every command to its page."""
    if docname == "api/command_line":
        os.environ["COLUMNS"] = "80"
        parser = make_parser()
        for action in parser._subparsers._group_actions:
            for command, each in action.choices.items():
                source[0] += f"\n## `learner {command}`\n\n```text\n{each.format_help()}```\n"


def setup(app):
    app.add_transform(DarkPictures)
    app.connect("doctree-read", add_search_words)
    app.connect("source-read", write_help)
    app.connect("autodoc-process-signature", clean_signature)
    app.connect("autodoc-skip-member", skip_former)
    app.connect("autodoc-process-docstring", mark_names, priority=100)
    app.connect("autodoc-process-docstring", restore_plain, priority=800)
    app.connect("autodoc-process-docstring", remove_learn, priority=850)
    app.connect("autodoc-process-docstring", mark_code, priority=900)
