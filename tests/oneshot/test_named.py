"""Laws of methods as text: what they name, and that nothing in them runs."""

from __future__ import annotations

import pytest

import dst
from dst.oneshot import named


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("magnitude", dst.Magnitude()),
        (" wanda ", dst.Wanda()),
        ("sparsegpt(block=64, mask=wanda)", dst.SparseGPT(block=64, mask=dst.Wanda())),
        ("alps(iterations=30)", dst.ALPS(iterations=30)),
        ("dsnot(accept='reduce')", dst.DSnoT(accept="reduce")),
        ("sparsegpt(mask=magnitude(scope='global'))", None),
    ],
)
def test_text_names_a_method_and_its_arguments(text, method):
    assert named.method(text) == (method or dst.SparseGPT(mask=dst.Magnitude(scope="global")))


def test_all_methods_have_names():
    classes = {entry.attribute for entry in named.REGISTRY.values()}
    exported = {n for n, module in dst._LAZY.items() if module.startswith("oneshot.")}
    assert classes == {n for n in exported if n[0].isupper()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wandaa", "method must be one of .*Did you mean 'wanda'"),
        ("owl", "method must be one of"),
        ("", "method must be a name, with or without arguments"),
        ("2:4", "method must be a name"),
        ("sparsegpt(64)", "arguments must be named"),
        ("sparsegpt(**{'block': 3})", "arguments must be named"),
        ("sparsegpt(width=3)", "sparsegpt has other arguments.*width"),
        ("sparsegpt(block=0)", "block of SparseGPT must be"),
        ("sparsegpt(block=[x for x in (1, 2)])", "method: block must be a number"),
        ("sparsegpt(mask=__import__('os').getcwd())", "method must be a name"),
        ("__import__('os')", "arguments must be named"),
        ("(" * 5000, "method must be a name"),
    ],
)
def test_other_text_is_refused_and_never_run(text, message):
    with pytest.raises(ValueError, match=message):
        named.method(text)


def test_allocations_and_structures_have_text_forms():
    assert named.allocation("owl(outlier=3.0)") == dst.OWL(outlier=3.0)
    assert named.allocation("erk") == "erk"
    assert named.structure("2:4") == dst.NM(2, 4)
    assert named.structure(None) == dst.Unstructured()
    for text in ("2-4", "4:2", "", "2:4:8"):
        with pytest.raises(ValueError, match="structure must be N:M|NM"):
            named.structure(text)
