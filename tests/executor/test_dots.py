"""Products of matrices that Triton compiles for warpgroups, on the executor, against float64's."""

from __future__ import annotations

from executed import executed


def test_products_that_triton_compiles() -> None:
    for name, found in executed("dots.py").items():
        assert found["products"] > 0, name
        # Sums are rounded once in eight terms.
        assert found["error"] < 3e-7, name
