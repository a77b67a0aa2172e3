"""Settings of Sphinx: `make docs` builds the site from these pages and the docstrings."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parents[1])]
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # docstrings are read; nothing is computed

import dst

project = "dst"
copyright = "the authors of dst; Apache-2.0"
version = release = dst.__version__

extensions = [
    "myst_nb",  # pages in Markdown, and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # docstrings with Args, Raises, ...
    "sphinx.ext.viewcode",
    "dst_site",
]
exclude_patterns = ["_ext", "intro"]  # intro: first words of generated pages
default_role = "literal"
nitpicky = True
# Types of other libraries: their sites are not linked, so that a build needs no network.
nitpick_ignore_regex = [(r"py:.*", r"(?!dst\.(?!_typing|train|report|lottery|sweep)).*")]

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
# Notebooks are shown as they lie; `make docs EXECUTE=1` runs them, and shows what comes out.
nb_execution_mode = "force" if os.environ.get("DST_DOCS_EXECUTE") else "off"
nb_execution_timeout = 600  # seconds a cell
nb_execution_raise_on_error = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_class_signature = "mixed"
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_numpy_docstring = False
# As text: the usual section takes words before a colon for a type.
napoleon_custom_sections = ["Returns"]

html_theme = "furo"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"dst {release}"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"top_of_page_buttons": []}  # nothing to view or edit elsewhere
