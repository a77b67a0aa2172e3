"""Laws of the networks: sizes their papers give, shapes, gradients, and what stays dense."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import dst
import dst.nnx
from dst import models
from dst.core.tree import survey
from tests.runs import QUICK

CIFAR, IMAGENET = (32, 32, 3), (224, 224, 3)


def shapes(cls, shape, classes, **settings):
    """A model of shapes, without any array."""
    return nnx.eval_shape(lambda: cls(shape, classes, **settings, rngs=nnx.Rngs(0)))


def parameters(model, at_least=0):
    """Elements of the parameters of at least so many dimensions."""
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    return sum(x.size for x in leaves if x.ndim >= at_least)


@pytest.mark.parametrize(
    "cls, shape, classes, settings, weights, everything",
    [
        # torchvision's resnet50.
        (models.ResNet50, IMAGENET, 1000, {}, 25_502_912, 25_557_032),
        # Keras lists 4,253,864 with 21,888 statistics.
        (models.MobileNetV1, IMAGENET, 1000, {}, 4_209_088, 4_253_864 - 21_888),
        # Han et al. 2015: 431 K.
        (models.LeNet5, (28, 28, 1), 10, {}, 430_500, 431_080),
        # Han et al. 2015 and LTH (1803.03635): 267 K and 266 K.
        (models.MLP, (28, 28, 1), 10, {}, 266_200, 266_610),
        # What the code of MNIST-1D prints.
        (models.ResidualMLP, (40, 1), 10, {}, None, 15_210),
        (models.ConvNet1d, (40, 1), 10, {}, None, 5_210),
        # He et al. 2016, table 6: 0.27 M and 0.85 M.
        (models.ResNet20, CIFAR, 10, {}, 268_336, 269_722),
        (models.ResNet20, CIFAR, 10, {"stages": (9, 9, 9)}, None, 853_018),
    ],
)
def test_networks_have_the_parameters_that_are_published(
    cls, shape, classes, settings, weights, everything
):
    model = shapes(cls, shape, classes, **settings)
    assert parameters(model) == everything
    assert weights is None or parameters(model, at_least=2) == weights


@pytest.mark.parametrize("depth, widen, millions", [(40, 4, 8.9), (16, 8, 11.0), (22, 8, 17.2)])
def test_wide_networks_have_the_parameters_of_their_paper(depth, widen, millions):
    model = shapes(models.WideResNet, CIFAR, 10, depth=depth, widen=widen)
    assert round(parameters(model) / 1e6, 1) == millions


SMALL = {
    "residual mlp": (models.ResidualMLP, (8, 1), {"width": 4, "blocks": 2}),
    "signals": (models.ConvNet1d, (8, 1), {"channels": (2, 3)}),
    "lenet5": (models.LeNet5, (16, 16, 1), {"channels": (2, 3), "hidden": 4}),
    "resnet50": (models.ResNet50, (32, 32, 3), {"stages": (1, 1), "width": 2}),
    "resnet20": (models.ResNet20, (8, 8, 3), {"stages": (1, 1), "width": 4}),
    "wide": (models.WideResNet, (8, 8, 3), {"depth": 10, "widen": 1}),
    "mobilenet": (models.MobileNetV1, (32, 32, 3), {"width": 1 / 16}),
}


SLOW = ("mobilenet", "wide")  # to compile


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.evidence if n in SLOW else []) for n in SMALL]
)
def test_logits_are_finite_and_every_parameter_takes_part(name):
    cls, shape, settings = SMALL[name]
    images = jax.random.normal(jax.random.key(1), (4, *shape))
    costs = dst.nnx.costs(shapes(cls, shape, 5, **settings), images)
    assert not costs.unknown
    kernels = {path for path, leaf in costs.leaves.items() if len(leaf.shape) > 1}
    assert {path for path, leaf in costs.leaves.items() if leaf.macs} == kernels

    def run():
        return cls(shape, 5, **settings, rngs=nnx.Rngs(0))(images)

    logits = jax.jit(run, compiler_options=QUICK)()  # with its initial weights, one program
    assert logits.shape == (4, 5)
    assert np.isfinite(logits).all()
    assert float(logits.std()) > 0


def test_modes_choose_between_batch_and_running_statistics():
    cls, shape, settings = SMALL["resnet20"]
    model = shapes(cls, shape, 5, **settings)
    for mode, running in ((model.eval, True), (model.train, False)):
        mode()
        norms = [x for _, x in nnx.iter_modules(model) if isinstance(x, nnx.BatchNorm)]
        assert {x.use_running_average for x in norms} == {running}


def test_the_stride_of_a_bottleneck_is_in_its_3_x_3_convolution():
    model = shapes(models.ResNet50, IMAGENET, 1000, stages=(2, 2), width=2)
    strides = {
        name: [tuple(np.broadcast_to(getattr(x, name).conv.strides, 2)) for x in model.block]
        for name in ("reduce", "conv", "expand")
    }
    assert set(strides["reduce"] + strides["expand"]) == {(1, 1)}
    assert [i for i, s in enumerate(strides["conv"]) if s == (2, 2)] == [2]


def test_kernels_are_sparse_by_default_but_norms_biases_and_depthwise_kernels_are_not():
    model = shapes(models.MobileNetV1, IMAGENET, 1000)
    leaves = survey(nnx.state(model, nnx.Param))
    sparse = {x.path for x in leaves if x.sparse}
    pointwise = {f"pair/{i}/pointwise/conv/kernel" for i in range(13)}
    assert sparse == pointwise | {"stem/conv/kernel", "out/kernel"}
    assert {x.why for x in leaves if "depthwise" in x.path} == {"depthwise (by name)"}
    # A first convolution of gray images has such a shape too, and is sparse.
    gray = survey(nnx.state(shapes(models.LeNet5, (28, 28, 1), 10), nnx.Param))
    assert {x.path for x in gray if x.sparse} >= {"conv/0/kernel"}


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda rngs: models.LeNet5((8, 8, 1), 10, rngs=rngs), "at least 16 x 16"),
        (lambda rngs: models.WideResNet(CIFAR, 10, depth=20, rngs=rngs), "multiple of 6"),
        (lambda rngs: models.ConvNet1d((2, 1), 10, rngs=rngs), "at least 3 places"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build(nnx.Rngs(0))


ANY_SHAPE = ("mlp", "residual-mlp")
OF_A_FILE = ("pretrained",)  # tests/train/test_distillation.py


@pytest.mark.parametrize("name", [x for x in models.REGISTRY if x not in ANY_SHAPE + OF_A_FILE])
def test_data_of_another_shape_are_refused_with_the_axes_that_a_network_needs(name):
    make = models.REGISTRY[name].load()
    with pytest.raises(ValueError, match=rf"{name} needs inputs \[.*\], got \[2, 3, 4, 5\]"):
        make((2, 3, 4, 5), 10, rngs=nnx.Rngs(0))


class TwoNorms(nnx.Module):
    """A norm of the input, a linear layer and another norm."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.BatchNorm(3, rngs=rngs)
        self.linear = nnx.Linear(3, 2, rngs=rngs)
        self.second = nnx.BatchNorm(2, rngs=rngs)

    def __call__(self, x):
        return self.second(self.linear(self.first(x)))


def test_recalibrated_statistics_are_those_of_all_images():
    model = TwoNorms()
    model.eval()
    images = np.random.default_rng(0).normal(2.0, 3.0, (24, 3)).astype(np.float32)
    models.recalibrate(model, [images[:16], images[16:]])
    np.testing.assert_allclose(model.first.mean.get_value(), images.mean(0), rtol=1e-5)
    np.testing.assert_allclose(model.first.var.get_value(), images.var(0), rtol=1e-5)
    # The second norm sees batches normalized each by its own statistics.
    outputs = [
        (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) @ np.asarray(model.linear.kernel.get_value())
        for x in (images[:16], images[16:])
    ]
    outputs = np.concatenate(outputs) + np.asarray(model.linear.bias.get_value())
    np.testing.assert_allclose(model.second.var.get_value(), outputs.var(0), rtol=1e-4)
    assert model.first.use_running_average
    assert model.first.momentum == 0.99


def test_recalibration_follows_masks_that_change():
    model = TwoNorms()
    images = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    model.linear.kernel.set_value(jnp.ones((3, 2)))
    models.recalibrate(model, [images])
    before = np.asarray(model.second.var.get_value())
    kernel = model.linear.kernel.get_value()
    model.linear.kernel.set_value(kernel.at[:2].set(0))
    models.recalibrate(model, [images])
    model.eval()
    outputs = np.asarray(model(images))
    np.testing.assert_allclose(outputs.var(0), 1, atol=1e-3)
    assert (np.abs(before - np.asarray(model.second.var.get_value())) > 0.01).all()


def test_recalibration_without_norms_or_batches_is_refused():
    with pytest.raises(ValueError, match=r"no nnx\.BatchNorm"):
        models.recalibrate(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), [np.zeros((1, 2))])
    with pytest.raises(ValueError, match="at least one batch"):
        models.recalibrate(TwoNorms(), [])


def test_a_sparse_convolutional_network_keeps_its_statistics_out_of_the_masks():
    cls, shape, settings = SMALL["resnet20"]
    model = shapes(cls, shape, 5, **settings)
    tx = dst.sparsify(optax.sgd(0.1), dst.Static(sparsity=0.5))
    assert all("norm" not in path for path in tx.plan(nnx.state(model, nnx.Param)).sparse)
