"""Configuration of the documentation site; `make docs` builds it into docs/_build/html.

The source folder of Sphinx is the root of the repository: pages are the READMEs, tutorials and docs where they lie, so
that their links to one another hold here as on a code host, and no text is kept twice.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import site_parts  # noqa: E402

import pyrozoo  # noqa: E402

project = "pyrozoo"
author = "the authors of pyrozoo"
copyright = f"{author}, Apache-2.0"
version = release = pyrozoo.__version__

root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/howto/*.md",
    "docs/api/*.rst",
    "docs/api/names/*.rst",
    "tutorials/README.md",
    "tutorials/*.ipynb",
    "pyrozoo/models/*/README.md",
    "benchmarks/README.md",
    "data/*/README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "site_parts",
]

# Notebooks are committed with their outputs: a build must not train anything.
nb_execution_mode = "off"
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
myst_enable_extensions = ["colon_fence", "dollarmath", "amsmath"]
myst_heading_anchors = 3
bibtex_bibfiles = ["papers.bib"]
bibtex_default_style = "plain"

autosummary_generate = True
autodoc_typehints = "none"  # types stand in the signature of the source; docstrings give shapes and units
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
default_role = "code"
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header"]

intersphinx_mapping = site_parts.inventories(HERE / "inventories.txt", HERE / "_build" / "inventories")

html_theme = "furo"
html_title = "pyrozoo"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_extra"]
html_math_renderer = "mathml"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
