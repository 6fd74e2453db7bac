"""The documentation site: ``sphinx-build -W docs SITE`` (pip install 'pytest-flux[docs]').

The pages link to each other by file, `Scopes <scopes.rst>`_, so that they can be read in the repository as well.
Here such links are resolved to pages of the site; links to other files lead to the repository. A link to a file that
does not exist is a warning.
"""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging

import pytest_flux

ROOT = Path(__file__).parent.parent
FILES = "https://github.com/pytest-flux/pytest-flux/blob/main"

project = "pytest-flux"
author = "The pytest-flux developers"
copyright = f"2026, {author}"  # noqa: A001 - Sphinx's name
version = release = pytest_flux.__version__

extensions = ["sphinx.ext.autodoc"]
# `name` in a docstring is code.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# Names that only type checkers see stay as they are written.
autodoc_type_aliases = {"Command": "Command"}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
exclude_patterns = ["_build"]
nitpicky = False

html_theme = "furo"
html_title = f"pytest-flux {version}"
html_copy_source = False

_log = logging.getLogger(__name__)


def resolve_files(app: Sphinx, doctree: nodes.document) -> None:
    """Turn links to files into links to pages, or to the repository."""
    page = Path(app.env.docname)
    for link in list(doctree.findall(nodes.reference)):
        uri = link.get("refuri", "")
        if not uri or ":" in uri or uri.startswith("#"):
            continue
        target = (ROOT / "docs" / page.parent / uri).resolve()
        inside = target.relative_to(ROOT / "docs") if target.is_relative_to(ROOT / "docs") else None
        if inside is not None and str(inside.with_suffix("")) in app.env.found_docs and target.suffix == ".rst":
            cross = addnodes.pending_xref(
                "",
                *link.children,
                refdomain="std",
                reftype="doc",
                refdoc=app.env.docname,
                reftarget=f"/{inside.with_suffix('')}",
                refexplicit=True,
                refwarn=True,
            )
            cross.source, cross.line = link.source, link.line
            link.replace_self(cross)
        elif target.exists() and target.is_relative_to(ROOT):
            link["refuri"] = f"{FILES}/{target.relative_to(ROOT)}"
        else:
            _log.warning("link to %s, which does not exist", uri, location=link)


def setup(app: Sphinx) -> None:
    """Register the resolver."""
    app.connect("doctree-read", resolve_files)
