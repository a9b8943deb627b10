"""Losses, the training step and its randomness."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from golden import (
    assert_golden,
    cases,
    config_of,
    load,
    nhwc,
    params_of,
    parse,
    part,
    relative_error,
    sde_of,
)
from networks import edm_inner
from scorax.configs import base
from scorax.losses import (
    State,
    ema_decay,
    ema_update,
    get_eval_step_fn,
    get_grad_fn,
    get_optimizer,
    get_schedule,
    get_sde_loss_fn,
    get_step_fn,
    init_state,
    reduce_loss,
    repeat_step,
    score_matching_error,
)
from scorax.models.utils import PARAMETRIZATIONS, get_model, get_parametrization, get_score_fn
from scorax.noise_levels import (
    discrete_levels,
    edm_levels,
    edm_ve_levels,
    edm_vp_levels,
    get_level_fn,
    uniform_levels,
)
from scorax.sde_lib import SDES, VESDE, VPSDE, SigmaPowerSDE, get_sde
from scorax.utils import parallel, strategies
from scorax.utils.strategies import STRATEGIES
from slow import but_slow, crossed

ALL = pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=list(SDES))


def expand(a):
    return a[:, None, None, None]


# Reference values


def kind_of(case):
    return {"smld": "ve", "ddpm": "vp"}.get(case["loss"]) or case["sde"]


def golden_setting(z, case):
    """How a case computes its errors, of the parameters and the noise levels; and these two."""
    kind = kind_of(case)
    sde = sde_of(kind, parse(z, "config"))
    x_0, noise = jnp.asarray(nhwc(z["in/batch"])), jnp.asarray(nhwc(z["in/z"]))
    toy, config, params = case["model"] == "toy", None, None
    if not toy:
        config = config_of(parse(z, case["model"] + "/config"))
        config.training.continuous = case.get("continuous", False) or kind == "subvp"
        config.training.sde = kind + "sde"
        model, row = get_model(config), get_parametrization(config, sde)
        params = params_of(z, case["model"] + "/params/", config)

    def levels_fn(weighting):
        if case["loss"] == "sde":
            return uniform_levels(sde, jnp.asarray(z["in/u"]), case["eps"], weighting)
        labels = jnp.asarray(z["in/labels"], jnp.int32)  # those of SMLD count falling sigmas
        return discrete_levels(sde, sde.N - 1 - labels if kind == "ve" else labels)

    def errors_fn(params, levels):
        def unit_toy(x, t):
            return -x / expand(1 + levels.sigma**2)

        score_fn = unit_toy if toy else get_score_fn(sde, model, params, {}, row)
        return score_matching_error(score_fn, x_0, levels, noise)

    return errors_fn, levels_fn, config, params


def golden_groups():
    """Cases that differ only in how the same errors are weighted and summed, by a common name."""
    groups = {}
    for case in cases("losses"):
        groups.setdefault(case["key"].rsplit("rm", 1)[0].rstrip("_/"), []).append(case)
    return groups


LONG = ("sde_loss/ve/net/continuous", "sde_loss/subvp/net/continuous")


@pytest.mark.parametrize("name", but_slow(golden_groups(), lambda n: n not in LONG))
def test_golden_losses_and_gradients(name):
    z, group = load("losses"), golden_groups()[name]
    errors_fn, levels_fn, config, params = golden_setting(z, group[0])

    @jax.jit
    def forward(params, levels):
        return errors_fn(params, levels)

    @jax.jit
    def backward(params, levels):
        return jax.grad(lambda params: reduce_loss(errors_fn(params, levels), True))(params)

    losses, gradients = {}, {}
    for case in group:
        levels = levels_fn(case.get("likelihood_weighting", False))
        losses[case["key"]] = reduce_loss(forward(params, levels), case["reduce_mean"])
        if case["key"] + "_gradnorm" in z:
            assert case["reduce_mean"]
            gradients[case["key"]] = backward(params, levels)
    for key, loss in losses.items():
        assert_golden(loss, z, key)
    for key, grads in gradients.items():
        assert_golden(optax.tree.norm(grads), z, key + "_gradnorm")
        stored = part(z, key + "_grad/")
        if not stored:
            continue
        if "time_fourier" in grads:
            assert not np.any(grads["time_fourier"]["W"])
            stored["all_modules.0.W"] = np.zeros_like(grads["time_fourier"]["W"])
        reference = params_of({"g/" + k: v for k, v in stored.items()}, "g/", config)
        assert_trees_close(grads, reference, 1e-6 * float(optax.tree.norm(reference)))


def assert_trees_close(ours, reference, unmoved):
    """Every array to 1e-4 of its own largest entry.

    A bias added to all attention keys does not change the softmax. Its gradient is zero but for
    rounding, which says nothing; `unmoved` holds it instead, to an absolute value.
    """
    for (path, a), b in zip(
        jax.tree.leaves_with_path(ours), jax.tree.leaves(reference), strict=True
    ):
        name = jax.tree_util.keystr(path)
        if name.endswith("['k']['bias']"):
            assert np.abs(a - b).max() < unmoved, name
        else:
            assert relative_error(a, b) <= 1e-4, (name, relative_error(a, b))


def edm_setting(z, case, sde):
    """The row of a case of edm.npz, as a function of an SDE, its levels, and its inner network."""
    if case["kind"] == "edm_loss":
        sd, normal = case["sigma_data"], jnp.asarray(z[case["log_sigma_normal"]])
        row = functools.partial(PARAMETRIZATIONS["edm"], sigma_data=sd)
        levels = edm_levels(sde, normal, case["P_mean"], case["P_std"], sd)
        return row, levels, edm_inner(z, labels=case["labels"])
    u = jnp.asarray(z[case["u"]])
    if case["kind"] == "vp_loss":
        levels, names = edm_vp_levels(sde, u, 0.1, 20.0), ("A", "b_vp", "d")
    else:
        levels = edm_ve_levels(sde, u, float(case["sigma_min"]), float(case["sigma_max"]))
        names = ("A", "b", "d")
    row = PARAMETRIZATIONS["edm_" + case["kind"].removesuffix("_loss")]
    return row, levels, edm_inner(z, names)


WIDE = {"vesde": VESDE(1e-3, 200.0), "sigma_power": SigmaPowerSDE(1e3)}  # enough for every case


EDM_CASES = {c["out"].removeprefix("out/loss/"): c for c in cases("edm") if "_loss" in c["kind"]}


@pytest.mark.parametrize("case, name", crossed(EDM_CASES, SDES))
def test_golden_edm_loss(case, name):
    """Per element, and the same for every SDE: the loss depends on the noise-to-signal ratio."""
    z, case = load("edm"), EDM_CASES[case]
    sde = WIDE.get(name) or SDES[name]()
    row, levels, net = edm_setting(z, case, sde)
    y, n = jnp.asarray(nhwc(z[case["y"]])), jnp.asarray(nhwc(z[case["noise"]]))
    error = jax.jit(
        lambda y, levels, n: score_matching_error(lambda x, t: row(sde, net, x, t), y, levels, n)
    )(y, levels, n)
    assert_golden(error, z, case["out"])


@pytest.mark.slow
def test_golden_train_steps():
    z = load("train_steps")
    config = config_of(parse(z, "config"))
    sde, model = get_sde(config), get_model(config)
    row = get_parametrization(config, sde)
    initial = params_of(z, "params_init/", config)

    def loss_fn(rng, params, model_state, batch):
        score_fn = get_score_fn(sde, model, params, model_state, row)
        levels = uniform_levels(sde, batch["u"])
        error = score_matching_error(score_fn, batch["image"], levels, batch["z"])
        return reduce_loss(error, reduce_mean=True), model_state

    def tree_of(prefix):
        # The averages are stored without the frequencies, which nothing changes.
        frequencies = {prefix + "all_modules.0.W": z["params_init/all_modules.0.W"]}
        return params_of(frequencies | z, prefix, config)

    optimizer = get_optimizer(config)
    step_fn = jax.jit(get_step_fn(loss_fn, optimizer, 0, config.model.ema_rate, ema_warmup=True))
    state = init_state(initial, {}, optimizer)
    constant, metrics = initial, []  # the average with constant decay, and what was logged
    for i in range(5):
        batch = {key: jnp.asarray(nhwc(z[f"in/{key}_{i}"])) for key in ("u", "z")}
        batch["image"] = jnp.asarray(nhwc(z[f"in/batch_{i}"]))
        state, metric = step_fn(state, batch)
        constant = ema_update(constant, state.params, ema_decay(state.step, 0.999, False))
        metrics.append(metric)
    assert state.step == 5
    assert_golden([m["loss"] for m in metrics], z, "out/losses")
    assert_golden([m["grad_norm"] for m in metrics], z, "out/grad_norms_before_clip")
    # Adam turns the rounding in a vanishing gradient into a step of full size.
    most = 10 * config.optim.lr
    assert_trees_close(state.params, tree_of("params_final/"), most)
    assert_trees_close(state.params_ema, tree_of("ema_final/"), most)
    assert_trees_close(constant, tree_of("ema_final_constant_decay/"), most)
    batch["z"] = jnp.asarray(nhwc(z["in/z_eval"]))
    loss = jax.jit(get_eval_step_fn(loss_fn, 0))(state, batch)
    assert_golden(loss, z, "out/eval_loss_with_ema")


# Losses


@ALL
def test_the_loss_of_the_exact_score_is_its_known_minimum(sde):
    """For data N(0, v), E ||sigma s + z||^2 per dimension is v mu^2 / (v mu^2 + sigma^2)."""
    v, n = 0.3, 20_000
    u = jnp.full((n,), 0.4)
    levels = uniform_levels(sde, u)
    rng = np.random.default_rng(0)
    x_0, z = (jnp.asarray(rng.standard_normal((n, 3)), jnp.float32) for _ in range(2))
    total = levels.mu**2 * v + levels.sigma**2
    errors = [
        score_matching_error(lambda x, t, c=c: -c * x / total[:, None], x_0 * v**0.5, levels, z)
        for c in (1.0, 1.1, 0.9)
    ]
    ours, above, below = (float(reduce_loss(e, True)) for e in errors)
    expected = float((levels.mu**2 * v / total)[0])
    assert ours == pytest.approx(expected, abs=4.5 * float(np.std(errors[0])) / np.sqrt(3 * n))
    assert ours < above and ours < below
    halved = float(reduce_loss(errors[0], reduce_mean=False))
    assert halved == pytest.approx(1.5 * ours, rel=1e-5)


# Schedule, optimizer, average


def schedule_config(**optim):
    config = base.get_config()
    config.training.n_iters = 1000
    config.optim.warmup, config.optim.lr = 100, 0.5
    config.optim.update(optim)
    return config


def rates(config, steps):
    return np.asarray(get_schedule(config)(jnp.asarray(steps)))


def test_warmup_starts_at_zero_and_ends_at_the_rate():
    expected = [0.0, 0.005, 0.25, 0.5, 0.5, 0.5]
    np.testing.assert_allclose(rates(schedule_config(), [0, 1, 50, 100, 101, 5000]), expected)


def test_cosine_ends_at_zero_and_stays_there():
    values = rates(schedule_config(schedule="cosine"), [0, 50, 100, 550, 1000, 2000])
    np.testing.assert_allclose(values, [0, 0.25, 0.5, 0.25, 0, 0], atol=1e-7)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_no_warmup_starts_at_the_rate(schedule):
    config = schedule_config(schedule=schedule, warmup=0)
    assert rates(config, [0])[0] == 0.5
    # Also for a step that is a scalar of the optimizer's own type.
    assert get_schedule(config)(jnp.zeros((), jnp.int32)) == 0.5


@pytest.mark.parametrize("change", [{"schedule": "linear"}, {"optimizer": "sgdd"}])
def test_unknown_names_are_refused(change):
    ((field, name),) = change.items()
    with pytest.raises(ValueError, match=f"{field}.*'{name}'.*choose from"):
        get_optimizer(schedule_config(**change))


def updates(config, params, grads):
    optimizer = get_optimizer(config)
    return optimizer.update(grads, optimizer.init(params), params)[0]


def test_weight_decay_is_decoupled_and_leaves_the_fourier_frequencies_alone():
    config = schedule_config(warmup=0, weight_decay=0.1)
    params = {"time_fourier": {"W": jnp.ones(3)}, "conv": {"kernel": jnp.full((2,), 2.0)}}
    zero = jax.tree.map(jnp.zeros_like, params)
    change = updates(config, params, zero)
    np.testing.assert_array_equal(change["time_fourier"]["W"], 0)
    np.testing.assert_allclose(change["conv"]["kernel"], -0.5 * 0.1 * 2.0, rtol=1e-6)


def test_gradients_are_clipped_by_their_global_norm():
    """Seen through Adam's epsilon: with a large one the update is proportional to the gradient."""
    params = {"a": {"kernel": jnp.zeros(1)}, "b": {"kernel": jnp.zeros(1)}}
    grads = {"a": {"kernel": jnp.asarray([30.0])}, "b": {"kernel": jnp.asarray([40.0])}}
    fields = {"warmup": 0, "eps": 1e6, "lr": 1e6}
    clipped = updates(schedule_config(grad_clip=1.0, **fields), params, grads)
    free = updates(schedule_config(grad_clip=-1.0, **fields), params, grads)
    np.testing.assert_allclose(clipped["a"]["kernel"], -0.6, rtol=1e-3)
    np.testing.assert_allclose(clipped["b"]["kernel"], -0.8, rtol=1e-3)
    np.testing.assert_allclose(free["b"]["kernel"], -40.0, rtol=1e-3)


def test_decay_of_the_average():
    n = jnp.asarray([1, 10, 100, 100_000])
    expected = [2 / 11, 0.55, 101 / 110, 0.999]
    np.testing.assert_allclose(ema_decay(n, 0.999, True), expected, rtol=1e-6)
    np.testing.assert_allclose(ema_decay(n, 0.999, False), 0.999, rtol=1e-6)


# The step: a small network of three layers is enough here


class SmallNet(nn.Module):
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, labels, train=False):
        h = nn.Conv(8, (3, 3), name="conv_0")(x)
        h = nn.tanh(h + nn.Dense(8, name="temb")(labels[:, None] / 999)[:, None, None, :])
        h = nn.Dropout(self.dropout)(h, deterministic=not train)
        return nn.Conv(x.shape[-1], (3, 3), name="conv_1")(h)


SDE = VPSDE()


@functools.cache
def small():
    """(loss_fn, params) of the small network with the continuous VP objective."""
    model = SmallNet()
    config = base.get_config()
    config.training.sde = "vpsde"
    level_fn = get_level_fn(config, SDE)
    loss_fn = jax.jit(get_sde_loss_fn(SDE, model, PARAMETRIZATIONS["eps"], level_fn, train=True))
    params = model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 2)), jnp.zeros(1))["params"]
    return loss_fn, params


def make_batch(n, start=0):
    images = np.random.default_rng(start).standard_normal((n, 4, 4, 2)).astype(np.float32)
    return {"image": jnp.asarray(images), "index": jnp.arange(start, start + n)}


def take(batch, rows):
    return jax.tree.map(lambda x: x[rows], batch)


def test_the_loss_of_a_batch_is_the_mean_of_its_parts():
    loss_fn, params = small()
    rng, batch = jax.random.key(3), make_batch(8)
    whole, _ = loss_fn(rng, params, {}, batch)
    halves = [loss_fn(rng, params, {}, take(batch, s))[0] for s in (slice(4), slice(4, 8))]
    assert float(whole) == pytest.approx(float(sum(halves)) / 2, rel=1e-6)


def test_noise_belongs_to_the_example_and_not_to_its_place():
    loss_fn, params = small()
    rng, batch = jax.random.key(3), make_batch(8)
    whole, _ = loss_fn(rng, params, {}, batch)
    order = np.random.default_rng(0).permutation(8)
    assert float(loss_fn(rng, params, {}, take(batch, order))[0]) == pytest.approx(
        float(whole), rel=1e-6
    )
    # Other positions in the data stream, another step: other noise.
    moved = batch | {"index": batch["index"] + 8}
    assert abs(float(loss_fn(rng, params, {}, moved)[0]) - float(whole)) > 1e-5
    assert abs(float(loss_fn(jax.random.key(4), params, {}, batch)[0]) - float(whole)) > 1e-5


def test_noise_differs_between_examples():
    """Equal images at equal places in a batch must not share noise or time."""
    seen = {}

    def row(sde, net, x, t):
        seen["x"], seen["t"] = np.asarray(x), np.asarray(t)
        return x

    level_fn = get_level_fn(base.get_config(), VESDE())
    loss_fn = get_sde_loss_fn(VESDE(), SmallNet(), row, level_fn, train=False)
    batch = {"image": jnp.zeros((64, 4, 4, 2)), "index": jnp.arange(64)}
    loss_fn(jax.random.key(0), {}, {}, batch)
    assert len(np.unique(seen["t"])) == 64
    z = seen["x"] / expand(np.asarray(VESDE().marginal_coeffs(jnp.asarray(seen["t"]))[1]))
    assert len(np.unique(z)) > 0.99 * z.size
    assert abs(z.mean()) < 4.5 / np.sqrt(z.size) and abs(z.var() - 1) < 4.5 * np.sqrt(2 / z.size)
    # Neither do noise and time come from the same bits.
    assert abs(np.corrcoef(seen["t"], z[:, 0, 0, 0])[0, 1]) < 4.5 / np.sqrt(64)


def test_dropout_in_training_only():
    config = base.get_config()
    config.training.sde = "vpsde"
    row, level_fn = PARAMETRIZATIONS["eps"], get_level_fn(config, SDE)
    _, params = small()
    losses = {}
    for train in (False, True):
        for rate in (0.0, 0.5):
            loss_fn = get_sde_loss_fn(SDE, SmallNet(rate), row, level_fn, train)
            losses[train, rate] = float(loss_fn(jax.random.key(0), params, {}, make_batch(4))[0])
    assert losses[False, 0.0] == losses[False, 0.5] == losses[True, 0.0] != losses[True, 0.5]


def sgd_state():
    optimizer = optax.sgd(0.1)
    return optimizer, init_state(small()[1], {}, optimizer)


def run_single(steps=3):
    loss_fn, _ = small()
    optimizer, state = sgd_state()
    step_fn = jax.jit(get_step_fn(loss_fn, optimizer, 7, 0.9))
    metrics = []
    for i in range(steps):
        state, m = step_fn(state, make_batch(8, 8 * i))
        metrics.append(m)
    return state, metrics


def assert_states_close(a: State, b: State):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


STRATEGY_CASES = [
    ("pmap", 1, 1),
    ("pmap", 8, 1),
    ("sharded", 8, 1),
    ("pmap", 2, 4),
    ("sharded", 2, 2),
    ("sharded", 4, 2),
    ("sharded", 1, 8),
]


@pytest.mark.parametrize(
    "name, devices, accumulate", but_slow(STRATEGY_CASES, lambda case: case[1] in (2, 4))
)
def test_every_strategy_takes_the_same_steps(name, devices, accumulate, monkeypatch):
    """Plain SGD, because Adam would hide a gradient that is off by a factor."""
    assert jax.device_count() == 8, "conftest asks for eight virtual devices"
    monkeypatch.setattr(strategies, "_SMALL", 0)  # split what can be split
    loss_fn, _ = small()
    optimizer, state = sgd_state()
    expected, expected_metrics = run_single()
    with parallel.on(jax.devices()[:devices]):
        strategy = STRATEGIES[name]()
        step_fn = get_step_fn(
            strategy.wrap(loss_fn), optimizer, 7, 0.9, False, strategy.axis_name, accumulate
        )
        batches = [make_batch(8, 8 * i) for i in range(3)]
        batches = [strategy.split(jax.tree.map(np.asarray, batch)) for batch in batches]
        state = strategy.place(state)
        step = strategy.compile(repeat_step(step_fn, 1), state, batches[0], donate=True)
        for i in range(3):
            state, metrics = step(state, batches[i])
            for key, value in strategy.fetch(metrics).items():
                np.testing.assert_allclose(value, [expected_metrics[i][key]], rtol=1e-5)
        kernel = state.params["conv_0"]["kernel"]  # (3, 3, 2, 8)
        assert len(kernel.sharding.device_set) == devices
        assert_states_close(strategy.fetch(state), expected)
        if name == "pmap":  # all replicas are the same, bit for bit
            for x in jax.tree.leaves(state):
                np.testing.assert_array_equal(x, np.broadcast_to(x[:1], x.shape))
        else:
            assert kernel.addressable_shards[0].data.size == kernel.size // devices


@pytest.mark.parametrize("accumulate", [2, 8])
def test_gradients_are_accumulated_over_parts_of_the_batch(accumulate):
    """The gradient of the whole batch, from parts that are no larger than asked for."""
    loss_fn, params = small()
    sizes = []

    def watched(rng, params, model_state, batch):
        sizes.append(len(batch["index"]))
        return loss_fn(rng, params, model_state, batch)

    rng, batch = jax.random.key(3), make_batch(8)
    expected = get_grad_fn(loss_fn)(rng, params, {}, batch)
    found = jax.jit(get_grad_fn(watched, accumulate))(rng, params, {}, batch)
    assert set(sizes) == {8 // accumulate}
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_training_moves_parameters_and_average():
    state, _ = run_single()
    start = small()[1]
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, state.params, start))
    lagging = optax.tree.norm(jax.tree.map(jnp.subtract, state.params_ema, start))
    assert state.step == 3 and 0 < lagging < moved


@pytest.mark.parametrize("warmup, decay", [(False, 0.9), (True, 2 / 11)])
def test_the_step_averages_with_the_decay_asked_for(warmup, decay):
    loss_fn, params = small()
    optimizer, state = sgd_state()
    state, _ = jax.jit(get_step_fn(loss_fn, optimizer, 7, 0.9, warmup))(state, make_batch(8))
    expected = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, params, state.params)
    for x, y in zip(jax.tree.leaves(state.params_ema), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("n", [1, 3])
def test_repeated_steps_are_single_steps(n):
    loss_fn, _ = small()
    optimizer, state = sgd_state()
    step_fn = get_step_fn(loss_fn, optimizer, 7, 0.9)
    batches = [make_batch(8, 8 * i) for i in range(n)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    state, metrics = jax.jit(repeat_step(step_fn, n))(state, stacked)
    expected, expected_metrics = run_single(n)
    assert_states_close(state, expected)
    assert metrics["loss"].shape == (n,)
    losses = [float(m["loss"]) for m in expected_metrics]
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    assert n == 1 or len(set(losses)) == n


def test_an_interrupted_run_continues_exactly():
    """The noise follows from the step: four steps at once or two and two give the same."""
    loss_fn, _ = small()
    optimizer, state = sgd_state()
    step_fn = jax.jit(get_step_fn(loss_fn, optimizer, 7, 0.9))
    for i in range(2):
        state, _ = step_fn(state, make_batch(8, 8 * i))
    state = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state)
    state, _ = step_fn(state, make_batch(8, 16))
    assert_states_close(state, run_single(3)[0])


def test_eval_uses_the_averaged_parameters():
    loss_fn, params = small()
    _, state = sgd_state()
    changed = jax.tree.map(lambda p: 2 * p, params)
    batch, step_fn = make_batch(8), get_eval_step_fn(loss_fn, 7)
    reference = float(step_fn(state, batch))
    assert float(step_fn(state.replace(params=changed), batch)) == reference
    assert float(step_fn(state.replace(params_ema=changed), batch)) != reference
