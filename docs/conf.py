"""The documentation's site: pages in Markdown, the commands from the program, the Python API from its docstrings."""

from __future__ import annotations

import os

os.environ.setdefault("NO_COLOR", "1")

project = "llm-persona"
author = "The llm-persona developers"
copyright = author

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
suppress_warnings = ["myst.strikethrough"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
default_role = "code"  # docstrings say `name` as Markdown does

html_theme = "furo"
html_title = "llm-persona"
html_copy_source = False
html_show_sphinx = False
