"""Scoping of gamma, and its automatic start."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flatjax
from flatjax import schedules

KINDS = ("exponential", "linear", "cosine")


@pytest.mark.parametrize("factor", [1e4, 1.0, 0.01])
@pytest.mark.parametrize("kind", KINDS)
def test_scoping_goes_from_its_start_to_factor_times_that(kind, factor):
    gamma = schedules.scoping(0.3, 50, factor, kind)
    values = jax.vmap(gamma)(jnp.arange(80))
    np.testing.assert_allclose(values[0], 0.3, rtol=1e-6)
    np.testing.assert_allclose(values[50:], 0.3 * factor, rtol=1e-5)
    steps = np.sign(np.diff(values[:51]))
    assert np.all(steps == np.sign(factor - 1))


@pytest.mark.parametrize(
    ("kind", "halfway", "quarter"),
    [
        ("exponential", 0.3 * 100**0.5, 0.3 * 100**0.25),
        ("linear", 0.3 * (1 + 99 / 2), 0.3 * (1 + 99 / 4)),
        ("cosine", 0.3 * (1 + 99 / 2), 0.3 * (1 + 99 * (1 - np.cos(np.pi / 4)) / 2)),
    ],
)
def test_scoping_in_between(kind, halfway, quarter):
    gamma = schedules.scoping(0.3, 100, 100.0, kind)
    np.testing.assert_allclose([gamma(25), gamma(50)], [quarter, halfway], rtol=1e-5)


def test_exponential_scoping_is_the_papers():
    """gamma_0 (1 + gamma_1)^t, with a total growth of 1e4."""
    steps, gamma_1 = 200, 1e4 ** (1 / 200) - 1
    t = np.arange(201)
    gamma = jax.vmap(schedules.scoping(0.01, steps))(t)
    np.testing.assert_allclose(gamma, 0.01 * (1 + gamma_1) ** t, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_scoping_from_zero_stays_there(kind):
    assert float(schedules.scoping(0.0, 10, kind=kind)(5)) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_scoping_compiles_once_for_all_counts(kind):
    gamma = jax.jit(schedules.scoping(0.3, 10, kind=kind))
    values = [float(gamma(jnp.array(count))) for count in (0, 5, 10)]
    assert gamma._cache_size() == 1
    assert len(set(values)) == 3


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ({"init_value": -1.0}, ValueError, "init_value"),
        ({"init_value": np.inf}, ValueError, "init_value"),
        ({"init_value": np.nan}, ValueError, "init_value"),
        ({"init_value": "1"}, TypeError, "init_value"),
        ({"init_value": np.ones(2)}, ValueError, "init_value"),
        ({"steps": 0}, ValueError, "steps"),
        ({"steps": -3}, ValueError, "steps"),
        ({"steps": 10.0}, TypeError, "steps"),
        ({"steps": True}, TypeError, "steps"),
        ({"factor": 0.0}, ValueError, "factor"),
        ({"factor": -1.0}, ValueError, "factor"),
        ({"factor": np.inf}, ValueError, "factor"),
        ({"kind": "quadratic"}, ValueError, "kind.*'quadratic'"),
    ],
)
def test_scoping_refuses(arguments, error, name):
    with pytest.raises(error, match=name):
        schedules.scoping(**{"init_value": 1.0, "steps": 10} | arguments)


# -------------------------------------------------------------------------- automatic gamma_0


def test_balanced_gamma_makes_the_energy_equal_to_the_loss():
    params = jax.random.normal(jax.random.key(0), (3, 40))
    distance = flatjax.replica_distance(params, replica_axis=0)
    gamma = schedules.balanced_gamma(2.3, distance)
    energy = gamma / 2 * np.mean(np.sum((params - params.mean(0)) ** 2, axis=1))
    np.testing.assert_allclose(energy, 2.3, rtol=1e-5)


@pytest.mark.parametrize(
    ("value", "distance", "name"),
    [
        (1.0, 0.0, "distance.*common initialisation"),
        (1.0, -1.0, "distance"),
        (1.0, np.nan, "distance"),
        (-1.0, 1.0, "value"),
        (np.inf, 1.0, "value"),
        (np.ones(2), 1.0, "value"),
    ],
)
def test_balanced_gamma_refuses(value, distance, name):
    with pytest.raises(ValueError, match=name):
        schedules.balanced_gamma(value, distance)


def test_scoping_of_a_traced_factor():
    gammas = jax.vmap(lambda factor: schedules.scoping(0.5, 4, factor)(2))(jnp.array([1.0, 1e4]))
    np.testing.assert_allclose(gammas, [0.5, 50.0], rtol=1e-5)


def test_balanced_gamma_under_jit():
    assert float(jax.jit(schedules.balanced_gamma)(2.0, 100.0)) == pytest.approx(0.04)


def test_balanced_scoping_measures_once_and_grows():
    gamma = schedules.BalancedScoping(schedules.scoping(1.0, 4, factor=16.0))
    assert isinstance(gamma, optax.schedules.StatefulSchedule)
    state, values = gamma.init(), []
    for value, distance in [(3.0, 2.0), (9.0, 1.0), (1.0, 7.0)]:
        values.append(gamma(state, value=value, distance=distance))
        state = gamma.update(state, value=value, distance=distance, unheard_of=1)
    np.testing.assert_allclose(values, [3.0, 6.0, 12.0], rtol=1e-6)
    assert int(state.count) == 3
    assert float(state.gamma_0) == 3.0


def test_balanced_scoping_of_coinciding_replicas_stays_at_zero():
    gamma = schedules.BalancedScoping(schedules.scoping(1.0, 4))
    with jax.debug_nans(True):
        state = gamma.update(gamma.init(), value=1.0, distance=0.0)
        assert float(gamma(state)) == 0.0


def test_balanced_scoping_refuses():
    with pytest.raises(TypeError, match=r"growth.*1\.0"):
        schedules.BalancedScoping(1.0)
    for start in (5.0, 0.0, float("nan")):
        with pytest.raises(ValueError, match=f"growth must start at 1, got {start:g} at count 0"):
            schedules.BalancedScoping(lambda count, start=start: start + count)
    with pytest.raises(ValueError, match="growth must start at 1, got 5"):
        schedules.BalancedScoping(schedules.scoping(5.0, 4))
    jax.jit(lambda: schedules.BalancedScoping(schedules.scoping(1.0, 4)).init())()
    gamma = schedules.BalancedScoping(schedules.scoping(1.0, 4))
    with pytest.raises(ValueError, match="distance"):
        gamma.update(gamma.init(), value=1.0)


@pytest.mark.claim("docs/optax.md", "BalancedScoping")
def test_balanced_scoping_in_inject_hyperparams():
    """It is a schedule that only the transformation itself can feed, and says so."""
    gamma = schedules.BalancedScoping(schedules.scoping(1.0, 4))
    params, value = jnp.array([[0.0], [2.0]]), 3.0

    def gamma_after_one_update(static):
        factory = optax.inject_hyperparams(flatjax.couple_replicas, static)
        tx = factory(gamma, replica_axis=0)
        _, state = tx.update(jnp.zeros((2, 1)), tx.init(params), params, value=value)
        return float(state.inner_state.gamma)

    assert gamma_after_one_update(("replica_axis", "period", "gamma")) == pytest.approx(6.0)
    with pytest.raises(ValueError, match="static_args"):
        gamma_after_one_update(("replica_axis", "period"))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, -1.0])
def test_a_loss_that_nothing_balances_is_measured_again(value):
    """The gamma of the next update is that of its own loss."""
    tx = optax.apply_if_finite(
        flatjax.couple_replicas(
            schedules.BalancedScoping(lambda count: 1.0 + count), replica_axis=0
        ),
        3,
    )
    params = jnp.array([[0.0], [2.0]])
    state, gammas = tx.init(params), []
    for loss in (value, 3.0, 5.0):
        _, state = tx.update(params, state, params, value=loss)
        gammas.append(float(state.inner_state.gamma))
    assert gammas == [0.0, 6.0, 12.0]


def test_the_loss_must_be_a_scalar():
    gamma = schedules.BalancedScoping(lambda count: 1.0)
    tx, params = flatjax.couple_replicas(gamma, replica_axis=0), jnp.array([[0.0], [2.0]])
    update = lambda value: tx.update(params, tx.init(params), params, value=value)[1].gamma
    assert float(update(2**40)) == 2.0**41
    assert float(update(np.int64(2**40))) == float(update(np.full(2, 2**40))) == 2.0**41
    assert float(update(jnp.array([2.0, 4.0]))) == 6.0  # of each replica
    with pytest.raises(
        ValueError, match=r"value .* must be a scalar or of shape \(2,\), got .*\(3,\)"
    ):
        update(jnp.ones(3))
    tx = flatjax.couple_replicas(gamma, axis_name="replica")
    run = lambda p: tx.update(p, tx.init(p), p, value=jnp.ones(2))
    with pytest.raises(ValueError, match=r"value .* must be a scalar, got shape \(2,\)"):
        jax.vmap(run, axis_name="replica")(params)
    with pytest.raises(ValueError, match="value"):
        gamma.update(gamma.init(), value=jnp.ones(3), distance=1.0)


def test_losses_of_half_precision_are_averaged_over_replicas():
    """In float16 the sum of two is infinite."""
    tx = flatjax.couple_replicas(schedules.BalancedScoping(lambda count: 1.0), axis_name="replica")
    run = lambda p: tx.update(p, tx.init(p), p, value=jnp.float16(40_000))[1].gamma
    gamma = jax.vmap(run, axis_name="replica")(jnp.array([[0.0], [2.0]]))
    np.testing.assert_array_equal(gamma, 80_000)


def test_integers_beyond_32_bits():
    assert float(schedules.scoping(2**40, 10)(0)) == 2.0**40
    assert float(schedules.scoping(1.0, 10, 2**40)(10)) == pytest.approx(2.0**40, rel=1e-5)
    assert float(schedules.balanced_gamma(2**40, 2**41)) == 1.0
