"""Laws of meshes: where arrays lie, what travels, the same masks, the same run but for rounding."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import closing
from functools import cache, cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

import dst
from dst.train import loop, optimizer, setup
from dst.train.config import run as config
from dst.train.config.run import MODEL
from dst.train.data import digits, stream
from dst.train.distributed.mesh import placement
from dst.train.records import checkpoint, run_dir
from dst.train.state import network
from tests.runs import QUICK
from tests.training import assert_same, batch, saved, small, write_small

MESHES = {
    "1": ("mesh.data=1",),
    "8": ("mesh.data=8",),
    "8 fully sharded": ("mesh.data=8", "mesh.fully_sharded=true"),
    "4 x 2": ("mesh.data=4", "mesh.model=2"),
    "4 x 2 fully sharded": ("mesh.data=4", "mesh.model=2", "mesh.fully_sharded=true"),
}
METHODS = {
    "rigl": (),
    "set": ("method=set",),
    "gmp": ("method={'name': 'gmp', 'sparsity': 0.8, 'every': 10, 'start': 10, 'stop': '75%'}",),
    "rigl 2:4": (
        "method={'name': 'rigl', 'sparsity': 0.5, 'every': 10, 'stop': '75%',"
        " 'allocation': 'uniform',"
        " 'rounding': 'ceil', 'structure': {'name': 'nm', 'n': 2, 'm': 4}}",
    ),
    "sr-ste": ("method={'name': 'sr-ste', 'n': 2, 'm': 4}",),
}
SETTINGS = ("model.hidden=[48, 16]", "optimizer.clip=null", "optimizer.ema=0.9")

pytestmark = pytest.mark.skipif(jax.local_device_count() < 8, reason="needs eight devices")


class Run:
    """A setup whose programs are compiled once, for a state with the shardings of the first one."""

    def __init__(self, settings):
        self.pieces = setup.make(settings)
        self.programs = {}

    @cached_property
    def first(self):
        """The state before the first step; steps get copies, since they donate it."""
        return self.pieces.begin()

    def program(self, topology):
        """The compiled step."""
        if topology not in self.programs:
            step = self.pieces.step.lower(self.first, *batch(self.pieces, 0), topology=topology)
            self.programs[topology] = step.compile()
        return self.programs[topology]

    def train(self, state, *steps):
        """Losses of some steps, and the state after them."""
        state, losses = jax.tree.map(jnp.copy, state), []
        with closing(self.pieces.batches(steps[0])) as batches:
            for count in range(*steps):
                step = self.program(self.pieces.fires(count))
                state, metrics = step(state, *next(batches))
                losses.append(float(metrics["loss"]))
        return losses, state


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs by mesh and further settings, each set up once."""
    folder = tmp_path_factory.mktemp("meshes")

    @cache
    def make(mesh, *more):
        return Run(small(folder, *SETTINGS, *MESHES[mesh], *more))

    return make


def assert_split_as_its_weights(state, specs):
    """Every array of the shape of a weight, and with its path, is split as the weight is."""
    paths, leaves, _ = dst.core.tree.flatten(state)
    split = Counter()
    for path, leaf in zip(paths, leaves, strict=True):
        weight = next((w for w in specs if f"/{path}/".endswith(f"/{w}/")), None)
        if leaf.ndim > 1 and weight is not None and path.split("/")[1] != "hyper":
            assert leaf.sharding.spec == specs[weight], path
            split[weight] += 1
        else:
            assert leaf.sharding.is_fully_replicated, path
    assert set(split.values()) == {5}  # weight, mask, two moments, average


SPECS = {
    "8": {"hidden/0/kernel": P(), "hidden/1/kernel": P(), "out/kernel": P()},
    "8 fully sharded": {
        "hidden/0/kernel": P("data"),
        "hidden/1/kernel": P(None, "data"),
        "out/kernel": P("data"),
    },
    "4 x 2": {
        "hidden/0/kernel": P(None, "model"),
        "hidden/1/kernel": P("model"),
        "out/kernel": P(),
    },
    "4 x 2 fully sharded": {
        "hidden/0/kernel": P("data", "model"),
        "hidden/1/kernel": P("model", "data"),
        "out/kernel": P("data"),
    },
}
LONG = [pytest.param(m, marks=pytest.mark.evidence) for m in ("8", "8 fully sharded", "4 x 2")]


@pytest.mark.parametrize("mesh", [*LONG, "4 x 2 fully sharded"])
def test_a_split_run_trains_as_on_one_device_and_moves_no_weight_to_select(runs, mesh):
    many, one = runs(mesh), runs("1")
    state, alone = many.first, one.first
    assert_same(jax.device_get(state), jax.device_get(alone))
    assert_split_as_its_weights(state, SPECS[mesh])

    hot, topology = (Counter(collectives(many.program(t).as_text())) for t in (False, True))
    assert hot and not any(shape for _, shape in topology - hot), "more than scalars travel"

    losses, state = many.train(state, 0, 10)
    expected, alone = one.train(alone, 0, 10)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    scores, ones = many.pieces.evaluate(state), one.pieces.evaluate(alone)
    assert scores == pytest.approx(ones, rel=1e-3)

    _, state = many.train(state, 10, 12)
    assert_split_as_its_weights(state, SPECS[mesh])
    assert int(state.opt_state.topology.done) == 1
    dst.check_invariants(state.opt_state, state.params)


def collectives(text):
    """What devices of a compiled program exchange: kind and shape of each array."""
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    for shapes, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text):
        for shape in re.findall(r"\w+\[([\d,]*)\]", shapes):
            yield kind, shape


def normal(random, like):
    return random.standard_normal(like.shape, np.float32)


CASES = [
    pytest.param(
        m, mesh, marks=[] if (m, mesh) == ("rigl", "4 x 2 fully sharded") else pytest.mark.evidence
    )
    for m in METHODS
    for mesh in MESHES
    if mesh != "1"
]


@pytest.mark.parametrize(("method", "mesh"), CASES)
def test_masks_are_those_of_one_device_given_its_weights_and_gradients(runs, method, mesh):
    """Three topology steps; weights and gradients come from the host, the state continues."""
    pair = [runs(name, *METHODS[method]) for name in ("1", mesh)]
    settings = pair[0].pieces.config
    tx = dst.sparsify(optimizer.make(settings.optimizer, 40), settings.rule(), seed=settings.seed)
    update = jax.jit(partial(tx.update, topology=True), compiler_options=QUICK)
    now = [x.first for x in pair]
    for seed in range(3):
        random = np.random.default_rng(seed)
        values = jax.tree.map(partial(normal, random), now[0].params)
        masks = []
        for i, state in enumerate(now):
            where = jax.tree.map(lambda x: x.sharding, state.params)
            params = jax.jit(dst.apply_masks)(jax.device_put(values, where), state.opt_state)
            grads = jax.tree.map(lambda x: x[::-1], values)
            _, opt_state = update(jax.device_put(grads, where), state.opt_state, params)
            now[i] = state._replace(opt_state=opt_state)
            masks.append(opt_state.masks)
        assert_same(*map(jax.device_get, masks))


@pytest.mark.evidence
def test_a_run_saved_on_eight_devices_resumes_on_one_and_four_and_back(runs, tmp_path):
    eight, one = runs("4 x 2 fully sharded"), runs("1")
    four = Run(small(tmp_path, *SETTINGS, "mesh.data=2", "mesh.model=2"))
    _, state = eight.train(eight.first, 0, 12)
    truth = jax.device_get(state)
    for step, there in enumerate((eight, one, eight, four, eight), start=12):
        saved(tmp_path, {step: state}, keep=1)
        state = checkpoint.restore(tmp_path, step, there.first)
        assert_same(jax.device_get(state), truth)
    for run in (eight, one):
        _, state = run.train(checkpoint.restore(tmp_path, step, run.first), 12, 20)
        assert int(state.opt_state.count) == 20
        dst.check_invariants(state.opt_state, state.params)


@pytest.mark.evidence
def test_a_resumed_run_trains_on_for_100_steps_on_another_mesh(tmp_path, capsys):
    settings = config.load(
        write_small(tmp_path),
        [*SETTINGS, *MESHES["8 fully sharded"], "train.steps=400", "train.checkpoint_every=20"],
    )
    run, last = tmp_path / "run", None
    loop.train(settings, run, until=100)
    for mesh, until in (("1", 200), ("4 x 2", 300), ("8 fully sharded", 400)):
        file = run / run_dir.CONFIG
        before = config.load(file)
        kept = checkpoint.steps(run / run_dir.CHECKPOINTS)[-1]
        restored = []
        for overrides in ((), MESHES[mesh]):
            if overrides:
                defaults = ("mesh.model=1", "mesh.fully_sharded=false")
                file.write_text(config.dump(config.load(file, [*defaults, *overrides])))
            like = setup.make(config.load(file)).begin()
            restored.append(checkpoint.restore(run / run_dir.CHECKPOINTS, kept, like))
        assert before.mesh != config.load(file).mesh
        assert_same(*map(jax.device_get, restored))
        capsys.readouterr()
        last = loop.resume(run, until=until)
        notes = capsys.readouterr().out.count("leaves 1 of 3 matrices undivided among 2 devices")
        assert notes == (mesh == "4 x 2")
        like = setup.make(config.load(file)).begin()
        state = checkpoint.restore(run / run_dir.CHECKPOINTS, until, like)
        assert int(state.opt_state.count) == until
        dst.check_invariants(state.opt_state, state.params)
    assert last is not None and last["accuracy"] > 0.8


@pytest.mark.evidence
@pytest.mark.parametrize("method", METHODS)
def test_300_steps_have_exact_counts_everywhere_and_start_alike(runs, method):
    ends = {}
    for mesh in MESHES:
        run = runs(mesh, "train.steps=400", *METHODS[method])
        losses, state = run.train(run.first, 0, 300)
        dst.check_invariants(state.opt_state, state.params)
        ends[mesh] = losses, {k: int(m.sum()) for k, m in dst.masks(state.opt_state).items()}
    expected, exact = ends["1"]
    for losses, counts in ends.values():
        assert counts == exact
        np.testing.assert_allclose(losses[:10], expected[:10], rtol=1e-4)
        np.testing.assert_allclose(np.mean(losses[-50:]), np.mean(expected[-50:]), rtol=0.1)


def model_of(name, **settings):
    """A network of shapes by its name in configs."""
    shapes = {"decoder": (8,), "convnet1d": (40, 1), "residual-mlp": (40, 1)}
    shape, classes = shapes.get(name, (32, 32, 3)), 256 if name == "decoder" else 10
    section = MODEL.read({"name": name, **settings}, "model")
    return nnx.eval_shape(lambda: network(section, shape, classes, 0))


def share_split(mesh, model, axis):
    """The fraction of the weights that an axis of the mesh splits."""
    leaves = jax.tree.leaves(placement(mesh, 8, 1, model).params)
    split = sum(x.size for x in leaves if axis in x.sharding.spec)
    return split / sum(x.size for x in leaves)


SMALL_MODELS = {
    "mlp": {},
    "residual-mlp": {"width": 512},
    "convnet1d": {"channels": [16, 32, 32]},
    "convnet": {"norm": "batch"},
    "lenet5": {"channels": [16, 32]},
    "resnet20": {"stages": [1, 1]},
    "resnet50": {"stages": [1, 1]},
    "wide-resnet": {"depth": 10},
    "mobilenet-v1": {"width": 0.25},
    "decoder": {"layers": 2, "scan": True, "tied": False},
}


@pytest.mark.parametrize("name", [x for x in MODEL.options if x != "pretrained"])  # a decoder
def test_names_let_a_mesh_split_every_network(name):
    model = model_of(name, **SMALL_MODELS[name])
    assert share_split(config.Mesh(1, 2), model, "model") > 0.6
    assert share_split(config.Mesh(4, 2), model, "data") == 0
    both = config.Mesh(4, 2, fully_sharded=True)
    assert share_split(both, model, "model") > 0.6
    assert share_split(both, model, "data") > 0.9
    for _, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        names = variable.get_metadata("out_sharding", None)
        assert names is None or len(names) == len(variable.get_value().shape)


class Unnamed(nnx.Module):
    """A network as users bring them."""

    def __init__(self, *widths):
        self.hidden = nnx.Linear(*widths, rngs=nnx.Rngs(0))


def test_networks_without_names_are_split_along_their_longest_axis():
    model = nnx.eval_shape(lambda: Unnamed(8, 24))
    split = placement(config.Mesh(8, fully_sharded=True), 8, 1, model)
    assert split.params["hidden"]["kernel"].sharding.spec == P(None, "data")
    assert split.params["hidden"]["bias"].sharding.spec == P()
    assert split.whole["hidden"]["kernel"].spec == P(None, None)
    with pytest.raises(ValueError, match=r"mesh\.model would divide no weight among 2 devices"):
        placement(config.Mesh(1, 2), 8, 1, model)


def test_what_the_mesh_leaves_whole_is_reported(tmp_path):
    settings = ("model.hidden=[15, 9]", "mesh.data=8", "mesh.fully_sharded=true")
    assert setup.make(small(tmp_path, *settings)).notes == (
        "mesh.fully_sharded leaves 2 of 3 matrices undivided among 8 devices: hidden/1/kernel, "
        "out/kernel",
    )


NORMED = "model={'name': 'convnet', 'channels': [4], 'hidden': 8, 'norm': 'batch'}"


@pytest.mark.parametrize("model", ["model.hidden=[48, 16]", NORMED])
def test_bfloat16_multiplies_and_everything_kept_is_float32(tmp_path, model):
    pieces = setup.make(small(tmp_path, model, "optimizer.ema=0.9", "train.compute=bfloat16"))
    arguments = (jax.eval_shape(pieces.begin), *batch(pieces, 0))
    step = jax.make_jaxpr(partial(pieces.step, topology=False), return_shape=True)
    program, (state, metrics) = step(*arguments)
    for before, after in zip(jax.tree.leaves(arguments[0]), jax.tree.leaves(state), strict=True):
        assert before.dtype == after.dtype
        assert not jnp.issubdtype(after.dtype, jnp.floating) or after.dtype == jnp.float32
    assert {x.dtype for x in metrics.values()} == {jnp.dtype("float32")}
    pattern = r":(\w+)\[[^\]]*\] = (?:dot_general|conv_general_dilated)"
    products = re.findall(pattern, str(program))
    assert len(products) > 4 and set(products) == {"bf16"}


def test_bfloat16_logits_are_those_of_rounded_weights(tmp_path):
    pieces = setup.make(small(tmp_path, "train.compute=bfloat16"))
    state = pieces.begin()
    state = state._replace(params=jax.tree.map(lambda w: 8 * w, state.params))
    ((inputs, labels),) = stream.testing(digits.load())

    def loss(kind):
        x = jnp.asarray(inputs.reshape(len(inputs), -1), kind)
        weights = jax.tree.map(lambda w: jnp.asarray(w, kind), jax.device_get(state.params))
        x = jax.nn.relu(x @ weights["hidden"][0]["kernel"])  # biases are still zero
        logits = np.asarray(x @ weights["out"]["kernel"], np.float64)
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return -np.log(chances[np.arange(len(labels)), labels]).mean()

    value = pieces.evaluate(state)["loss"]
    assert value == pytest.approx(loss(jnp.bfloat16), rel=1e-5)
    assert value != pytest.approx(loss(jnp.float32), rel=1e-4)
