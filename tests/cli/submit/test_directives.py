"""Options in batch scripts (RFC 36)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_flux.cli.commands.submit.directives import Directive, parse_directives

HEAD = "#!/bin/sh\n"


def test_directives() -> None:
    text = HEAD + '# flux: -N4 --job-name="a b" # words after this are none\n# flux:\n#\n# flux: -c2\ntrue\n# end\n'
    assert parse_directives(text) == [Directive(2, ["-N4", "--job-name=a b"]), Directive(5, ["-c2"])]


def test_quotes_of_three() -> None:
    text = (
        HEAD
        + '# FLUX: --setattr=x=\'\'\'a "b" c\'\'\'\n# FLUX: --conf="""\n# FLUX: [a]\n# FLUX:   b = 1\n# FLUX: """\n'
    )
    assert parse_directives(text) == [
        Directive(2, ['--setattr=x=a "b" c']),
        Directive(3, ["--conf=[a]\n  b = 1\n"]),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("# flux: -N2\ntrue\n# flux: -n1", "line 4: orphan 'flux:' detected: directives disabled after line 2"),
        ("# flux: -N2\n#flux: -n1", "line 3: sentinel changed from '# flux:' to '#flux:'"),
        ('# flux: """x', "line 2: unclosed triple quote"),
        ('# flux: -S x="""\n# y', "line 3: unterminated multi-line quote at line 2"),
        ("# flux: 'x", "line 2: .*No closing quotation"),
        ("# flux: submit", "line 2: Unknown directive"),
    ],
)
def test_mistakes(lines: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_directives(HEAD + lines + "\n")


@given(st.text(alphabet="# flux:-n'\"\n", max_size=80))
def test_hostile_scripts(text: str) -> None:
    try:
        parse_directives(text)
    except ValueError:
        pass
