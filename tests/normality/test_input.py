"""What `departure_from_normality` takes and gives back: types, spoilt samples, threads, halves, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from reference_matrices import spectrograms, value_and_gradient

from schurgan.normality import departure_counters, departure_from_normality, reset_departure_counters
from schurgan.normality.estimators import METHODS, begin_departure_from_normality

UNIT = torch.from_numpy((spectrograms(6, 16) + 1) / 2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_value_has_the_precision_of_the_input_and_float32_for_half_types(dtype, method):
    x = UNIT[:3].to(dtype)
    value, gradient = value_and_gradient(x, method)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.dtype == dtype
    single = dtype in (torch.float32, torch.float64)
    error = (value - departure_from_normality(x.double(), method)).abs()
    assert (error <= 1e-6 * x.double().square().sum((-2, -1))).all()  # perron and asymmetry stay in float32
    _, slopes = value_and_gradient(x.double(), method)
    if method != "paper_determinant":  # whose 1/λ of half types' rounded λ has no digit
        tolerance = 1e-5 if single else 2e-2  # half types: the rounding of the result
        torch.testing.assert_close(gradient.double(), slopes, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_matrices_give_real_values_and_complex_gradients(dtype):
    x = torch.complex(UNIT, UNIT.flip(-1)).to(dtype)
    value, gradient = value_and_gradient(x)
    assert value.dtype == (torch.float32 if dtype == torch.complex64 else torch.float64)
    assert gradient.dtype == dtype
    truth = departure_from_normality(x.to(torch.complex128))
    torch.testing.assert_close(value.double(), truth, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_autocast_changes_no_bit(method):
    x = UNIT.float()
    expected, slopes = value_and_gradient(x, method)
    with torch.autocast("cpu", torch.bfloat16):
        value, gradient = value_and_gradient(x, method)
    assert torch.equal(value, expected)
    assert torch.equal(gradient, slopes)


@pytest.mark.parametrize("method", METHODS)
def test_values_and_gradients_have_the_same_bits_for_any_number_of_threads(method):
    x = torch.from_numpy((spectrograms(12, 64) + 1) / 2)
    results = []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        results.append(value_and_gradient(x, method))
        assert torch.get_num_threads() == threads
    for value, gradient in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("method", ["exact", "hybrid"])
def test_a_matrixs_value_and_gradient_have_the_same_bits_alone_and_in_a_batch(method):
    x = torch.from_numpy(spectrograms(6, 64))
    value, gradient = value_and_gradient(x, method)
    for index in range(6):
        alone, slope = value_and_gradient(x[index], method)
        assert torch.equal(value[index], alone)
        assert torch.equal(gradient[index], slope)


def test_calls_from_several_threads_at_once_give_the_same_bits_and_restore_the_number_of_threads():
    from concurrent.futures import ThreadPoolExecutor

    x = torch.from_numpy(spectrograms(8, 64))
    expected = value_and_gradient(x)
    torch.set_num_threads(2)
    with ThreadPoolExecutor(4) as executor:
        results = list(executor.map(lambda _: value_and_gradient(x), range(8)))
    assert torch.get_num_threads() == 2
    assert all(torch.equal(a, b) for result in results for a, b in zip(result, expected, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_begun_and_finished_later_is_the_direct_call(method):
    options = {"factor": 4, "channels": "mean"}
    x = UNIT.unflatten(0, (2, 3)).clone().requires_grad_()
    direct = departure_from_normality(x, method, **options)
    (slope,) = torch.autograd.grad(direct.sum(), x)
    rest = begin_departure_from_normality(x, method, **options)
    value = rest()
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert torch.equal(value, direct)
    assert torch.equal(gradient, slope)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("method", METHODS)
def test_nonfinite_matrix_counts_as_zero_with_no_gradient_and_leaves_its_neighbours_alone(bad, method):
    for dtype in (torch.float32, torch.float64):
        x = UNIT[:3].to(dtype)
        expected, slopes = value_and_gradient(x, method)
        x = x.clone()
        x[1, 2, 3] = bad
        reset_departure_counters()
        value, gradient = value_and_gradient(x, method)
        assert departure_counters()["nonfinite"] == 1
        assert value[1] == 0
        assert torch.equal(gradient[1], torch.zeros_like(gradient[1]))
        assert torch.equal(value[::2], expected[::2])
        assert torch.equal(gradient[::2], slopes[::2])


def test_nonfinite_complex_matrix_counts_as_zero():
    x = torch.complex(UNIT[:2], UNIT[:2])
    x[0, 1, 1] = complex(0, float("inf"))
    reset_departure_counters()
    value, gradient = value_and_gradient(x)
    assert departure_counters()["nonfinite"] == 1
    assert value[0] == 0
    assert value[1] > 0
    assert gradient[0].abs().max() == 0


@pytest.mark.parametrize("method", METHODS)
def test_strict_refuses_nonfinite_matrices_with_their_number(method):
    x = UNIT.unflatten(0, (2, 3)).clone()
    assert departure_from_normality(x, method, strict=True).shape == (2, 3)
    x[0, 1, 2, 3] = torch.nan
    x[1, 2, 0, 0] = torch.inf
    x[1, 2, 0, 1] = -torch.inf
    with pytest.raises(ValueError, match="x has NaN or infinite entries in 2 of 6 matrices"):
        departure_from_normality(x, method, strict=True)


def test_strict_perron_refuses_negative_entries_and_says_how_low_they_reach():
    x = UNIT.clone()
    x[0, 0, 0] = -0.25
    with pytest.raises(ValueError, match=r"x reaches down to -0\.25: perron needs matrices in \[0, 1\]"):
        departure_from_normality(x, "perron", strict=True)
    assert departure_from_normality(x, "perron").isfinite().all()
    assert departure_from_normality(x, "exact", strict=True).isfinite().all()


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(2, 3, 4), {}, r"\(2, 3, 4\): Δ² is defined for square matrices; resize the images to 3x3, or cut"),
        (torch.zeros(1, 1, 128, 64), {}, r"\(1, 1, 128, 64\).*resize the images to 64x64.*squares of that side"),
        (torch.zeros(5), {}, r"\(5,\): square matrices"),
        (torch.zeros(2, 0, 0), {}, r"\(2, 0, 0\): square matrices"),
        (torch.zeros(3, 9, 9), {"method": "hybrid"}, r"\(3, 9, 9\).*pools 2x2 and needs n divisible by 2"),
        (torch.zeros(6, 6), {"method": "paper_symmetric", "factor": 4}, "paper_symmetric pools 4x4"),
        (torch.zeros(6, 6), {"method": "paper_determinant", "factor": 4}, "paper_determinant pools 4x4"),
        (torch.zeros(4, 4), {"method": "exakt"}, '"exakt".*exact, hybrid, perron'),
        (torch.zeros(4, 4), {"method": "hybrid", "factor": 0}, "factor is 0: a whole number of 1 or more"),
        (torch.zeros(4, 4, dtype=torch.uint8), {}, "torch.uint8: floating point is needed"),
        (torch.zeros(4, 4, dtype=torch.complex64), {"method": "hybrid"}, 'torch.complex64: "hybrid" needs real'),
        (torch.zeros(4, 4), {"channels": "mean"}, r'\(4, 4\): images .* needed for channels="mean"'),
        (torch.zeros(4, 4), {"channels": "luminance"}, r"\(4, 4\): luminance needs images"),
        (torch.zeros(2, 4, 4, 4), {"channels": "luminance"}, r"\(2, 4, 4, 4\): luminance .* C of 1 or 3"),
        (torch.zeros(1, 4, 4), {"channels": "median"}, 'channels is "median": "mean", "sum"'),
        (torch.zeros(4, 4), {"constant": "zeta"}, 'constant is "zeta": "gamma" or "minkowski"'),
    ],
)
def test_wrong_input_is_refused_with_what_was_given(x, options, message):
    with pytest.raises(ValueError, match=message):
        departure_from_normality(x, **options)
