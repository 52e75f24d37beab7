"""Sphinx settings of the documentation; ``make docs`` builds it."""

import re

from detectron2_agssp import __version__

project = "detectron2_agssp"
release = __version__
copyright = "the authors of detectron2_agssp"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"detectron2_agssp {release}"

myst_enable_extensions = ["dollarmath"]
# Links such as pretraining.md#a-second-round point to headings, as on the hosting page.
myst_heading_anchors = 3

# What a room's __all__ names is its public face.
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "imported-members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def name_files_outside(app, docname, source):
    """A link out of docs/, which works in the repository, becomes the name of its file."""

    def name(link):
        text, path = link.groups()
        return f"`{path}`" if text == path else f"{text} (`{path}`)"

    source[0] = re.sub(r"(?<!!)\[([^]]+)]\(\.\./([^)#]+)[^)]*\)", name, source[0])


def setup(app):
    app.connect("source-read", name_files_outside)
