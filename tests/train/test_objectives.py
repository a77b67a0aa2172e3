"""Laws of objectives: their figures are scikit-learn's, whatever the batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import metrics

import dst
from dst.train import data, evaluation, objectives
from dst.train.config import run as config
from dst.train.data import stream
from dst.train.objectives import figures
from dst.train.objectives.multi_label import MultiLabel
from dst.train.objectives.regression import Regression
from dst.train.state import TrainState
from tests.training import small

RANDOM = np.random.default_rng(0)
N = 50


def measured(objective, outputs, labels, size):
    """The figures of outputs that stand for a network, evaluated in batches of a size."""

    class Network:
        test = None

        def merge(self, graph, params, carried):
            return lambda inputs: inputs

    masks = dst.sparsify(optax.identity(), dst.Dense()).init({})
    state = TrainState({}, masks, None, {}, jnp.int32(0))
    split = data.from_arrays((outputs, labels), (outputs, labels))
    object.__setattr__(split, "at_once", size)
    return evaluation.make(Network(), objective, lambda: stream.testing(split))(state)


@pytest.mark.parametrize("size", [7, N])
@pytest.mark.parametrize("targets", [1, 3])
def test_figures_of_regression_are_those_of_all_examples_in_the_units_of_the_targets(size, targets):
    units, mean = np.array([10.0, 0.5, 2.0])[:targets], np.array([-3.0, 4.0, 100.0])[:targets]
    labels = RANDOM.normal(size=(N, targets)).astype(np.float32)
    outputs = (labels + 0.3 * RANDOM.normal(size=labels.shape)).astype(np.float32)
    objective = Regression().of(tuple(units))
    found = measured(objective, outputs, labels[:, 0] if targets == 1 else labels, size)
    true, said = labels * units + mean, outputs * units + mean
    assert found["rmse"] == pytest.approx(np.sqrt(metrics.mean_squared_error(true, said)), rel=1e-4)
    assert found["r2"] == pytest.approx(metrics.r2_score(true, said), rel=1e-4)
    assert found["loss"] == pytest.approx(metrics.mean_squared_error(labels, outputs), rel=1e-5)


def test_a_target_that_never_changes_has_no_share_explained():
    labels, outputs = np.ones((4, 1), np.float32), np.zeros((4, 1), np.float32)
    found = measured(Regression(), outputs, labels, 4)
    assert found["r2"] == metrics.r2_score(labels, outputs) == 0


@pytest.mark.parametrize("size", [7, N])
def test_figures_of_several_classes_are_those_of_all_examples(size):
    labels = RANDOM.random((N, 5)) < [0.1, 0.3, 0.5, 0.7, 0.9]
    outputs = RANDOM.normal(np.where(labels, 0.8, -0.8)).astype(np.float32)
    found = measured(MultiLabel(), outputs, labels, size)
    said = outputs > 0
    assert found["f1"] == pytest.approx(metrics.f1_score(labels, said, average="micro"), rel=1e-5)
    assert found["label_accuracy"] == pytest.approx((said == labels).mean(), rel=1e-5)
    shares = 1 / (1 + np.exp(-outputs.astype(float)))
    nats = np.mean([metrics.log_loss(labels[:, i], shares[:, i]) for i in range(5)])
    assert found["loss"] == pytest.approx(nats, rel=1e-5)


def test_where_there_is_nothing_to_find_f1_is_zero():
    nothing = np.zeros((3, 2), bool)
    found = measured(MultiLabel(), np.full((3, 2), -1, np.float32), nothing, 3)
    assert (found["f1"], found["label_accuracy"]) == (0, 1)


@pytest.mark.parametrize("objective", [Regression(), MultiLabel()])
def test_labels_that_do_not_fit_the_outputs_are_refused(objective):
    batch = jnp.zeros((4, 3)), jnp.zeros((4, 2))
    with pytest.raises(ValueError, match=r"outputs \(4, 3\) and labels \(4, 2\)"):
        objective.loss(lambda x: x, batch, jax.random.key(0))


def test_less_error_is_a_better_score_and_what_has_no_name_is_judged_by_its_loss():
    assert figures.score({"rmse": 1.0, "loss": 9}) > figures.score({"rmse": 2.0, "loss": 1})
    assert figures.score({"f1": 0.9, "loss": 9}) > figures.score({"f1": 0.2, "loss": 1})
    assert figures.score({"perplexity": 0.0, "loss": 1.0}) == -1.0
    assert figures.headline({"loss", "r2", "rmse"}) == "rmse"


def test_an_objective_that_needs_other_labels_is_refused_before_anything_is_built(tmp_path):
    section = small(tmp_path, "objective=regression").objective
    assert objectives.label_kind(section) == "number"
    fit = r"one of \['adversarial', 'classification', 'distillation', 'next-token'\]"
    with pytest.raises(ValueError, match=fit):
        objectives.check_labels(section, "classification")
    objectives.check_labels(section, "regression")
    objectives.check_labels(None, "classification")


def test_arrays_say_by_their_labels_what_is_asked():
    inputs = np.zeros((4, 2), np.float32)

    def asked(labels):
        made = data.from_arrays((inputs, labels), (inputs, labels))
        return made.objective, made.classes

    assert asked(np.array([0, 1, 2, 1])) == ("classification", 3)
    assert asked(np.array([0.5, 1, 2, 1])) == ("regression", 1)
    assert asked(np.zeros((4, 3))) == ("regression", 3)
    assert asked(np.zeros((4, 3), bool)) == ("multi-label", 3)


def test_units_of_a_config_come_before_those_of_the_data():
    section = config.OBJECTIVE.read({"name": "regression", "units": [2.0]}, "objective")
    assert section.value.of((5.0,)).units == (2.0,)
    assert Regression().of((5.0,)).units == (5.0,)
