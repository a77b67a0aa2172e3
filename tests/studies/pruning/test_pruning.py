"""Laws of `dst prune`: what it writes, that it goes on where it was stopped, what it refuses."""

from __future__ import annotations

import json
import re

import jax
import numpy as np
import pytest
from flax import nnx

import dst
from dst import cli, models
from dst.core import tree
from dst.studies import pruning
from dst.studies.pruning.settings import Settings
from tests.studies.pruning import small


def files(path):
    """The content of everything below a directory."""
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def weights(path):
    paths, leaves, _ = tree.flatten(nnx.state(models.load(path), nnx.Param))
    return dict(zip(paths, map(np.asarray, leaves), strict=True))


@pytest.fixture
def arguments(tmp_path):
    """Of a pruning that takes little."""
    model, text = small.decoder(tmp_path / "model"), small.text(tmp_path / "text.txt")
    return ["prune", str(model), "--calibration", str(text), "--windows", "4x8", "--dir"]


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt(mask=wanda)"])
def test_a_model_directory_comes_out_with_masks_figures_and_a_report(
    tmp_path, arguments, method, capsys
):
    out = tmp_path / "a" / "out"
    assert cli.main([*arguments, str(out), "--method", method, "--sparsity", "0.5"]) == 0
    shown = capsys.readouterr()
    before, after, masks = (
        weights(tmp_path / "model"),
        weights(out),
        dst.load_masks(out / "masks.safetensors"),
    )
    assert set(masks) == {p for p in before if "blocks" in p and "kernel" in p}
    for path, leaf in after.items():
        if path in masks:
            assert masks[path].sum() == leaf.size - leaf.size // 2
            assert (leaf[~masks[path]] == 0).all()
        else:
            np.testing.assert_array_equal(leaf, before[path])
    result = json.loads((out / "pruning.json").read_text())
    assert result["sparsity"] == 0.5
    assert len(result["matrices"]) == 14
    assert result["quality"]["perplexity"] != result["quality"]["against"]["perplexity"]
    assert result["quality"]["kl"] > 0
    assert f"{result['quality']['perplexity']:.3f}" in shown.out
    assert "stage 1 of 4" in shown.err
    page = (out / "report.html").read_text()
    assert "With 50.0 % zeros, perplexity" in page
    assert "blocks/1/feed_forward/down/kernel" in page
    assert (
        models.tokenizer(out).encode("fox").ids
        == models.tokenizer(tmp_path / "model").encode("fox").ids
    )
    assert not (tmp_path / "a" / "out.part").exists()


def test_a_model_without_a_finite_perplexity_is_written_all_the_same(tmp_path, arguments, capsys):
    """Everything is there, and figures that are no finite numbers are null."""
    model = models.load(tmp_path / "model")
    model.final_norm.scale[...] = jax.numpy.full_like(model.final_norm.scale[...], 3e38)
    models.save(tmp_path / "broken", model, tokenizer=tmp_path / "model")
    arguments[1], options = str(tmp_path / "broken"), ["--method", "magnitude"]
    for name, more in (("one", ["--sparsity", "0.5"]), ("curve", ["--curve", "0.1,0.5"])):
        assert cli.main([*arguments, str(tmp_path / name), *options, *more]) == 0
    result = json.loads((tmp_path / "one" / "pruning.json").read_text())
    assert result["quality"]["perplexity"] is None
    assert result["quality"]["against"]["perplexity"] is None
    assert json.loads((tmp_path / "curve" / "curve.json").read_text())["knee"] is None
    assert "is no finite number" in (tmp_path / "one" / "report.html").read_text()
    assert "Already at 10.0 % zeros" in capsys.readouterr().out


def test_an_encoder_is_judged_by_its_embeddings(tmp_path, capsys):
    model, text = small.encoder(tmp_path / "model"), small.text(tmp_path / "text.txt")
    settings = Settings(str(model), "wanda", 0.3, calibration=str(text), windows=(4, 8))
    result = pruning.run(settings, tmp_path / "out")
    assert 0 < result["quality"]["cosine"] < 1
    assert "pooler/kernel" in dst.load_masks(tmp_path / "out" / "masks.safetensors")
    assert "mean cosine of embeddings" in pruning.table(result)


@pytest.mark.parametrize(
    ("options", "zeros"),
    [
        ({"structure": "2:4"}, 0.5),
        ({"sparsity": 0.5, "allocation": "owl"}, 0.5),
        ({"sparsity": 0.5, "select": ("**/gate/*",)}, 0.5),
        ({"sparsity": 0.75, "method": "dsnot"}, 0.75),
        ({"sparsity": 0.5, "method": "obert(block=16, dampening=1e-4)"}, 0.5),
    ],
    ids=lambda x: "-".join(map(str, x)) if isinstance(x, dict) else "",
)
def test_structure_allocation_and_choice_of_leaves(tmp_path, options, zeros):
    model, text = small.decoder(tmp_path / "model"), small.text(tmp_path / "text.txt")
    settings = {"method": "wanda", **options, "calibration": str(text), "windows": (4, 8)}
    result = pruning.run(Settings(str(model), **settings), tmp_path / "out")
    masks = dst.load_masks(tmp_path / "out" / "masks.safetensors")
    assert abs(result["sparsity"] - zeros) < 0.04  # counts per output are rounded down
    if "structure" in options:
        for mask in masks.values():
            assert (mask.reshape(-1, 4, mask.shape[1]).sum(1) == 2).all()
    if "select" in options:
        assert len(masks) == 2


class Killed(BaseException):
    pass


def killed_at(stop):
    """Progress that ends with a kill at the first line that begins so."""

    def say(line):
        if line.startswith(stop):
            raise Killed

    return say


def test_a_pruning_that_is_killed_goes_on_and_ends_with_the_same_files(tmp_path):
    model, text = small.decoder(tmp_path / "model"), small.text(tmp_path / "text.txt")
    settings = Settings(str(model), "sparsegpt", 0.6, calibration=str(text), windows=(4, 8))
    pruning.run(settings, tmp_path / "whole")

    for stop in ("stage 1", "stage 3", "judged"):
        with pytest.raises(Killed):
            pruning.run(settings, tmp_path / "out", killed_at(stop))
        assert not (tmp_path / "out").exists()
    pruning.run(settings, tmp_path / "out")
    one, other = (files(tmp_path / n) for n in ("whole", "out"))
    timed = {p for p in one if p.name in ("pruning.json", "report.html")}
    assert one.keys() == other.keys()
    assert {p: x for p, x in one.items() if p not in timed} == {
        p: x for p, x in other.items() if p not in timed
    }
    quality = [
        json.loads(x[p])["quality"] for x in (one, other) for p in timed if p.suffix == ".json"
    ]
    assert quality[0] == quality[1]


def test_the_plan_is_printed_and_nothing_is_pruned(tmp_path, arguments, capsys):
    out = tmp_path / "out"
    assert cli.main([*arguments, str(out), "--sparsity", "0.5", "--plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "stage"
    assert len(lines) == 5
    assert not out.exists()


BAD = {
    "no sparsity": (["--sparsity", None], "sparsity must be given, or a structure such as 2:4"),
    "sparsity 1": (["--sparsity", "1.0"], r"sparsity must be a number in \[0, 1\)"),
    "method": (["--method", "wandaa"], "Did you mean 'wanda'"),
    "structure": (["--structure", "2-4"], "structure must be N:M, such as 2:4"),
    "structure and sparsity": (["--structure", "2:4", "--sparsity", "0.7"], "0.5"),
    "N:M that does not divide": (
        ["--structure", "2:5", "--sparsity", "0.6"],
        "blocks/0/attention/query/kernel",
    ),
    "windows": (["--windows", "32"], "windows must be NxLENGTH, such as 32x256"),
    "all windows": (["--windows", "allx8"], "calibration takes a number of them"),
    "windows of one token": (["--windows", "4x1"], "the length of windows must be"),
    "beyond the context": (["--windows", "2x17"], "at most 16 tokens long, the context"),
    "too little text": (
        ["--windows", "400x8"],
        "too short: 400 windows of 8 tokens need 3200, found 400",
    ),
    "no text": (["--calibration", "nowhere/*.txt"], "text must be 'topics', 'stdlib' or a pattern"),
    "no model": (["MODEL", "nowhere"], "found nothing at nowhere|nowhere"),
    "no leaf": (["--select", "nothing/*"], "nothing"),
    "curve": (["--curve", "0.1;0.2"], "curve must be sparsities such as 0.3,0.5,0.7"),
    "curve that falls": (["--curve", "0.3,0.2"], "sparsities must rise"),
    "curve to 1": (["--curve", "0.3,1"], r"sparsity must be a number in \[0, 1\)"),
    "allocation": (["--allocation", "owll"], "Did you mean 'owl'|allocation"),
    "blocks": (["--blocks", "all"], "blocks must be one of"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_nothing_is_left(tmp_path, arguments, case, capsys):
    changes, message = BAD[case]
    options = {"--sparsity": "0.5"}
    given = dict(zip(changes[::2], changes[1::2], strict=True))
    line = arguments[:]
    if "MODEL" in given:
        line[1] = given.pop("MODEL")
    for key in ("--calibration", "--windows"):
        if key in given:
            line[line.index(key) + 1] = given.pop(key)
    if "--structure" in given:
        options = {}
    options |= given
    tail = [x for key, value in options.items() if value is not None for x in (key, value)]
    assert cli.main([*line, str(tmp_path / "out"), *tail]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("out.part/model"))


def test_a_curve_has_a_point_per_sparsity_and_goes_on_where_it_was_stopped(
    tmp_path, arguments, capsys
):
    out, shares = tmp_path / "out", [0.1, 0.3, 0.9]
    settings = Settings(
        arguments[1], "wanda", 0.1, calibration=str(tmp_path / "text.txt"), windows=(4, 8)
    )
    with pytest.raises(Killed):
        pruning.curve(settings, shares, out, killed_at("point 2"))
    assert not out.exists()
    assert cli.main([*arguments, str(out), "--curve", "0.1,0.3,0.9"]) == 0
    shown = capsys.readouterr()
    result = json.loads((out / "curve.json").read_text())
    assert [x["sparsity"] for x in result["points"]] == shares
    assert len(shown.err.splitlines()) == 3
    alone = pruning.run(Settings(**{**vars(settings), "sparsity": 0.9}), tmp_path / "alone")
    assert alone["quality"] == {k: result["points"][2][k] for k in alone["quality"]}
    for text in (shown.out, (out / "report.html").read_text()):
        assert pruning.curve_answer(result) in text
    assert {x.name for x in out.iterdir()} == {"curve.json", "report.html"}


def test_the_knee_is_before_the_first_point_that_loses_too_much():
    def points(*values):
        dense = {"perplexity": 10.0}
        shares = [0.1, 0.2, 0.3]
        return [
            {"sparsity": s, "perplexity": x, "against": dense}
            for s, x in zip(shares, values, strict=True)
        ]

    assert pruning.knee(points(9.0, 10.09, 10.2), 0.01) == 0.2
    assert pruning.knee(points(10.2, 10.0, 10.0), 0.01) is None
    assert pruning.knee(points(10.0, 10.0, 10.0), 0.01) == 0.3


def test_what_is_there_is_not_replaced(tmp_path, arguments, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    assert cli.main([*arguments, str(out), "--sparsity", "0.5"]) == 2
    assert "must be a new or an empty directory" in capsys.readouterr().err
    assert files(out) == {(out / "mine").relative_to(out): b"mine"}


def test_stages_of_other_settings_are_refused(tmp_path):
    model, text = small.decoder(tmp_path / "model"), small.text(tmp_path / "text.txt")

    settings = {"calibration": str(text), "windows": (4, 8)}
    with pytest.raises(Killed):
        pruning.run(
            Settings(str(model), "wanda", 0.5, **settings), tmp_path / "out", killed_at("stage 1")
        )
    with pytest.raises(ValueError, match="stages of another pruning: another plan"):
        pruning.run(Settings(str(model), "wanda", 0.6, **settings), tmp_path / "out")


def test_the_dense_model_stays_as_it_is(tmp_path):
    model, text = small.decoder(tmp_path / "model"), small.text(tmp_path / "text.txt")
    job = pruning.Job(Settings(str(model), "wanda", 0.5, calibration=str(text), windows=(4, 8)))
    before = jax.tree.map(np.array, nnx.state(job.model, nnx.Param))
    pruned, masks = job.prune()
    assert masks
    assert pruned is not job.model
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(job.model, nnx.Param))


@pytest.mark.parametrize(
    ("method", "windows"), [("gblm", 1), ("dsnot(initial=gblm)", 1), ("wanda", 4), ("cap", 1)]
)
def test_methods_that_read_gradients_get_one_for_every_window(tmp_path, arguments, method, windows):
    model, text = arguments[1], arguments[3]
    job = pruning.Job(Settings(model, method, 0.5, calibration=text, windows=(4, 8)))
    assert {x.shape for x in job.batches} == {(windows, 8)}
