"""Schedules, objectives and the generation step against their papers' formulas, written here a second time."""

import math
from itertools import pairwise

import pytest
import torch

from core.method.diffusion import (
    add_noise,
    alpha_bars,
    estimate_x0,
    generate,
    loss_weights,
    step,
    target,
    timesteps,
)

EXACT = 1e-12  # both sides in float64
SINGLE = 1e-6  # relative, one side rounded to float32
SAMPLED = 0.05  # relative, moments of 10,000 samples: five standard errors
OBJECTIVES = ("x0", "noise", "v")
SCHEDULES = ("cosine", "linear")


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def pair(rng):
    """x0, noise (16, 5), and signal levels (16, 1) from almost noise to almost signal, in float64."""
    x0, noise = torch.randn(2, 16, 5, generator=rng, dtype=torch.float64)
    return x0, noise, torch.linspace(1e-4, 0.9999, 16, dtype=torch.float64)[:, None]


def levels_of(schedule, n_steps=1000):
    return alpha_bars(schedule, n_steps).double()


def test_cosine_schedule_is_nichol_and_dhariwals_closed_form():
    n, s = 1000, 0.008
    f = [math.cos((t / n + s) / (1 + s) * math.pi / 2) ** 2 for t in range(n + 1)]
    levels = levels_of("cosine", n)
    assert levels[:-1].tolist() == pytest.approx([f[t] / f[0] for t in range(1, n)], rel=SINGLE)


def test_cosine_schedule_clips_its_last_beta_at_0_999():
    levels = levels_of("cosine")
    assert float(levels[-1] / levels[-2]) == pytest.approx(0.001, rel=SINGLE)


def test_linear_schedule_runs_evenly_from_1e_4_to_2e_2():
    levels = levels_of("linear")
    betas = 1 - levels / torch.cat([torch.ones(1, dtype=torch.float64), levels[:-1]])
    early = slice(0, 900)  # later levels are too small for their ratio to keep the digits
    assert betas[early].tolist() == pytest.approx(
        [1e-4 + (2e-2 - 1e-4) * t / 999 for t in range(900)], abs=SINGLE
    )
    assert float(levels[-1]) == pytest.approx(
        math.prod(1 - 1e-4 - (2e-2 - 1e-4) * t / 999 for t in range(1000)), rel=SINGLE
    )


def test_linear_schedule_adds_as_much_noise_in_fewer_steps():
    assert float(levels_of("linear", 250)[-1].log()) == pytest.approx(
        float(levels_of("linear", 1000)[-1].log()), rel=0.03
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("n_steps", [2, 10, 50, 1000, 4000])
def test_signal_falls_strictly_between_one_and_zero(schedule, n_steps):
    levels = alpha_bars(schedule, n_steps)
    assert levels.shape == (n_steps,) and levels.dtype == torch.float32
    assert 0 < levels[-1] and levels[0] < 1
    assert (levels.diff() < 0).all()


def test_noising_keeps_unit_variance(pair):
    _, _, level = pair
    one, zero = torch.ones_like(level), torch.zeros_like(level)
    signal, noise = add_noise(one, zero, level), add_noise(zero, one, level)
    torch.testing.assert_close(signal**2 + noise**2, one, rtol=EXACT, atol=0)
    torch.testing.assert_close(signal**2, level, rtol=EXACT, atol=0)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_estimate_inverts_target(objective, pair):
    x0, noise, level = pair
    found = estimate_x0(
        objective, target(objective, x0, noise, level), add_noise(x0, noise, level), level
    )
    torch.testing.assert_close(found, x0, rtol=1e-10, atol=1e-10)  # noise: divided by sqrt(1e-4)


def test_v_is_the_velocity_along_the_noising_angle(pair):
    x0, noise, level = pair
    angle, h = torch.atan2((1 - level).sqrt(), level.sqrt()), 1e-6
    velocity = (
        add_noise(x0, noise, (angle + h).cos() ** 2) - add_noise(x0, noise, (angle - h).cos() ** 2)
    ) / (2 * h)
    inside = slice(1, -1)  # a central difference needs room on both sides
    torch.testing.assert_close(
        target("v", x0, noise, level)[inside], velocity[inside], rtol=1e-6, atol=1e-6
    )


def test_snr_weighting_makes_the_loss_the_same_for_every_objective(pair, rng):
    x0, noise, level = pair
    noisy, wrong_x0 = (
        add_noise(x0, noise, level),
        torch.randn(x0.shape, generator=rng, dtype=torch.float64),
    )
    wrong_noise = (noisy - level.sqrt() * wrong_x0) / (
        1 - level
    ).sqrt()  # the noise that the wrong x0 stands for
    losses = [
        loss_weights("snr", o, level)
        * (target(o, wrong_x0, wrong_noise, level) - target(o, x0, noise, level)) ** 2
        for o in OBJECTIVES
    ]
    plain = (wrong_noise - noise) ** 2
    for loss in losses:
        torch.testing.assert_close(loss, plain, rtol=1e-9, atol=EXACT)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_uniform_weighting_is_one(objective, pair):
    assert (loss_weights("uniform", objective, pair[2]) == 1).all()


def test_timesteps_are_all_of_them_when_as_many_are_asked_for():
    assert timesteps(1000, 1000) == list(range(999, -1, -1))


@pytest.mark.parametrize("n_used", [2, 3, 50, 999])
def test_timesteps_fall_evenly_from_the_last_to_the_first(n_used):
    used = timesteps(1000, n_used)
    gaps = [a - b for a, b in pairwise(used)]
    assert (used[0], used[-1], len(used)) == (999, 0, n_used)
    assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1


def test_a_single_timestep_is_the_noisiest():
    assert timesteps(1000, 1) == [999]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("t", [1, 2, 10, 500, 998, 999])
def test_step_at_eta_one_between_adjacent_timesteps_is_the_ddpm_posterior(schedule, t, pair):
    x0, noisy, _ = pair
    levels = levels_of(schedule)
    now, after = levels[t], levels[t - 1]
    alpha, beta = now / after, 1 - now / after
    mean = after.sqrt() * beta / (1 - now) * x0 + alpha.sqrt() * (1 - after) / (1 - now) * noisy
    deviation = ((1 - after) / (1 - now) * beta).sqrt()
    found = step(noisy, x0, now, after, 1.0, torch.zeros_like(x0))
    torch.testing.assert_close(found, mean, rtol=1e-9, atol=1e-9)
    spread = step(noisy, x0, now, after, 1.0, torch.ones_like(x0)) - found
    torch.testing.assert_close(spread, deviation.expand_as(spread), rtol=1e-9, atol=1e-9)


def test_step_at_eta_zero_keeps_the_noise_and_takes_no_fresh_one(pair):
    x0, noise, _ = pair
    now, after = torch.tensor([0.2, 0.7], dtype=torch.float64)
    found = step(add_noise(x0, noise, now), x0, now, after, 0.0, torch.full_like(x0, 1e6))
    torch.testing.assert_close(found, add_noise(x0, noise, after), rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_step_keeps_the_variance_of_the_forward_process(eta):
    now, after = torch.tensor([0.2, 0.7], dtype=torch.float64)
    zero = torch.zeros((), dtype=torch.float64)
    old = step(
        (1 - now).sqrt(), zero, now, after, eta, zero
    )  # what becomes of one unit of old noise
    fresh = step(zero, zero, now, after, eta, zero + 1)
    assert float(old**2 + fresh**2) == pytest.approx(float(1 - after), rel=EXACT)


def perfect(objective, x0, levels):
    def denoise(noisy, t):
        level = levels[t][:, None]
        return target(objective, x0, (noisy - level.sqrt() * x0) / (1 - level).sqrt(), level)

    return denoise


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("n_used", [1, 2, 7, 50, 1000])
def test_ddim_with_a_perfect_denoiser_returns_x0(objective, schedule, n_used, pair, rng):
    x0, levels = pair[0], levels_of(schedule)
    start = torch.randn(x0.shape, generator=rng, dtype=torch.float64)
    found = generate(perfect(objective, x0, levels), objective, levels, start, n_used, 0.0, rng)
    torch.testing.assert_close(found, x0, rtol=1e-9, atol=1e-9)  # noise: divided by sqrt(2e-9)


def test_generation_asks_the_denoiser_at_falling_timesteps_with_the_start_first(rng):
    asked, levels = [], levels_of("cosine")
    start = torch.randn(3, 4, generator=rng, dtype=torch.float64)

    def denoise(noisy, t):
        asked.append((noisy, t))
        return torch.zeros_like(noisy)

    generate(denoise, "x0", levels, start, 5, 0.0, rng)
    assert torch.equal(asked[0][0], start)
    assert [t.tolist() for _, t in asked] == [[t] * 3 for t in (999, 749, 500, 250, 0)]
    for noisy, t in asked:  # x0 = 0 throughout: what is left is the start's noise, shrunk
        expected = start * ((1 - levels[t]) / (1 - levels[-1])).sqrt()[:, None]
        torch.testing.assert_close(noisy, expected, rtol=1e-9, atol=1e-9)


def gaussian_denoiser(mean, deviation, levels):
    """E[x0 | z_t] for x0 ~ N(mean, deviation^2): the best x0 denoiser there is for such data."""

    def denoise(noisy, t):
        level = levels[t][:, None]
        gain = level.sqrt() * deviation**2 / (level * deviation**2 + 1 - level)
        return mean + gain * (noisy - level.sqrt() * mean)

    return denoise


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_in_many_steps_follows_the_flow_that_maps_noise_to_gaussian_data(schedule, rng):
    levels, mean, deviation = levels_of(schedule), 3.0, 0.5
    start = torch.randn(64, 1, generator=rng, dtype=torch.float64)
    found = generate(
        gaussian_denoiser(mean, deviation, levels), "x0", levels, start, 1000, 0.0, rng
    )
    first = levels[-1]
    units = (start - first.sqrt() * mean) / (
        first * deviation**2 + 1 - first
    ).sqrt()  # constant along the flow
    torch.testing.assert_close(
        found, mean + deviation * units, rtol=0, atol=0.02
    )  # discretisation, O(1 / steps)


def test_ddpm_generates_the_mean_and_spread_of_gaussian_data(rng):
    levels, mean, deviation = alpha_bars("linear", 250), 3.0, 0.5
    start = torch.randn(10_000, 1, generator=rng)
    found = generate(gaussian_denoiser(mean, deviation, levels), "x0", levels, start, 250, 1.0, rng)
    assert float(found.mean()) == pytest.approx(mean, abs=SAMPLED * deviation)
    assert float(found.std()) == pytest.approx(deviation, rel=SAMPLED)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_generation_depends_on_its_generator_alone(eta):
    levels, start = (
        alpha_bars("cosine", 100),
        torch.randn(8, 4, generator=torch.Generator().manual_seed(1)),
    )

    def sample(seed):
        generator = torch.Generator().manual_seed(seed)
        before, own = torch.get_rng_state(), generator.get_state()
        latents = generate(lambda z, t: 0.5 * z, "x0", levels, start, 100, eta, generator)
        assert torch.equal(torch.get_rng_state(), before)  # the global generator is left alone
        assert torch.equal(generator.get_state(), own) == (eta == 0)  # DDIM draws nothing
        return latents

    assert torch.equal(sample(0), sample(0))
    assert torch.equal(sample(0), sample(1)) == (eta == 0)


def test_unknown_names_are_refused():
    one = torch.ones(1, 1)
    with pytest.raises(ValueError, match="sigmoid.*cosine or linear"):
        alpha_bars("sigmoid", 10)
    with pytest.raises(ValueError, match="eps.*x0, noise or v"):
        target("eps", one, one, one)
    with pytest.raises(ValueError, match="eps.*x0, noise or v"):
        estimate_x0("eps", one, one, one)
    with pytest.raises(ValueError, match="min-snr.*uniform or snr"):
        loss_weights("min-snr", "x0", one)
    with pytest.raises(ValueError, match="at least one step"):
        generate(lambda z, t: z, "x0", alpha_bars("cosine", 10), one, 0, 0.0, torch.Generator())
