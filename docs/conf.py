"""Settings of the documentation: `sphinx-build -W -b html docs docs/_build/html`."""

import re
import sys
from pathlib import Path

from sphinx.ext.autodoc import preserve_defaults

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

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
html_static_path = ["_static"]
html_css_files = ["plainlearner.css"]
templates_path = ["_templates"]
pygments_style = "friendly"

copybutton_selector = "div:not(.highlight-output) > div.highlight > pre"
copybutton_prompt_text = r"\$ |>>> |\.\.\. "  # of a block with prompts, only what follows them is copied
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"
copybutton_copy_empty_lines = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
napoleon_use_rtype = False
napoleon_use_ivar = True


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
    for i, line in enumerate(lines):
        lines[i] = re.sub(r"(?<!`)`([^`]+)`(?=(\w?))", mark_name, line)
        if (
            i > 0 and lines[i - 1].strip() == "Returns:"
        ):  # or napoleon takes what stands before a colon for a type
            lines[i] = re.sub(r"\S", r": \g<0>", lines[i], count=1)
    if what in PLAIN:
        plain_docstrings[name] = list(lines)


def mark_name(found):
    return f"``{found[1]}``" + ("\\ " if found[2] else "")


def restore_plain(app, what, name, obj, options, lines):
    """Restore an attribute's text: napoleon reads the part before the first colon as its type."""
    if what in PLAIN:
        lines[:] = plain_docstrings.pop(name)


def mark_code(app, what, name, obj, options, lines):
    """Show indented text after a blank line as Python, not as a quotation."""
    in_section = False
    for i, line in enumerate(list(lines)):
        if line.startswith((":", "..")):
            in_section = True
        starts = line.startswith("    ") and i > 0 and not lines[i - 1].strip()
        if starts and not in_section and not any(part.startswith(".. code-block") for part in lines[:i]):
            lines[i:i] = [".. code-block:: python", ""]


def setup(app):
    app.connect("autodoc-process-docstring", mark_names, priority=100)
    app.connect("autodoc-process-docstring", restore_plain, priority=800)
    app.connect("autodoc-process-docstring", mark_code, priority=900)
