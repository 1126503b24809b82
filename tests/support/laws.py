"""The law of operators: a fast form equals its definition in value and in gradient."""

import torch


def assert_same_law(definition, form, inputs, leaves, **options):
    """Check that a form equals its definition in float64, with and without gradients, and in those of `leaves`."""
    expected, got = definition(**inputs, **options), form(**inputs, **options)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(form(**inputs, **options), expected.detach(), rtol=1e-9, atol=1e-9)
    weight = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).reshape(expected.shape)
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), leaves, materialize_grads=True, allow_unused=True),
        torch.autograd.grad((expected * weight).sum(), leaves, materialize_grads=True, allow_unused=True),
        strict=True,
    ):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
