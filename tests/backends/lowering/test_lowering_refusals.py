"""What the lowering does not know is an error that names the author's file and line, never a silent difference."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import refused_constructs
from cells import environment
from refused_constructs import HELPERS, STEPS

from operant_gpu import UnsupportedConstruct, lang

pytestmark = pytest.mark.quick


def refused_line(function: Any) -> int:
    lines, first = inspect.getsourcelines(function.fn)
    return first + next(offset for offset, line in enumerate(lines) if "# refused" in line)


def assert_refused(step: Any, where: Any, advice: str = ": ") -> None:
    """Check that an environment with this step is refused, and that the marked line of `where` is named."""
    with pytest.raises(UnsupportedConstruct, match=advice) as raised:
        environment(step)(2, device="cpu", backend="numpy")
    assert f"{refused_constructs.__file__}:{refused_line(where)}," in str(raised.value)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_a_refused_construct_is_named_with_its_file_and_line(step: Any) -> None:
    assert_refused(step, HELPERS.get(step.__name__, step))


def test_a_number_of_an_enclosing_function_is_refused() -> None:
    step = refused_constructs.in_a_closure(1.0)
    advice = (
        r"offset is a plain number outside the function: write OFFSET = tl.constexpr\(offset\) beside it, and OFFSET"
    )
    assert_refused(step, step, advice)


@pytest.mark.parametrize(
    ("step", "advice"),
    [
        (refused_constructs.if_on_a_block, "tl.where"),
        (refused_constructs.and_of_blocks, "& | ~"),
        (refused_constructs.chained_comparison, r"\(a < b\) & \(b < c\)"),
        (refused_constructs.plain_number_global, r"GRAVITY = tl\.constexpr\(9\.8\)"),
        (refused_constructs.sum_of_conditions, r"\.to\(tl\.int32\)"),
        (refused_constructs.floor_division_of_floats, r"tl\.floor\(a / b\)"),
        (refused_constructs.sine_of_integers, r"\.to\(tl\.float32\)"),
        (refused_constructs.clamp_of_integers, r"tl\.minimum\(tl\.maximum\(x, low\), high\)"),
        (refused_constructs.failed_static_assertion, "power is small"),
    ],
    ids=lambda value: getattr(value, "__name__", "advice"),
)
def test_a_refusal_says_what_to_write_instead(step: Any, advice: str) -> None:
    assert_refused(step, step, advice)


def test_recursion_is_refused() -> None:
    with pytest.raises(UnsupportedConstruct):
        environment(refused_constructs.recursion)(2, device="cpu", backend="numpy")


IN_NO_FILE = """
from operant_gpu.lang import jit

@jit
def step(state, action, rng, params):
    return state, 0.0, False
"""


@pytest.mark.parametrize("name", ["<string>", "<stdin>"], ids=["exec or python -c", "standard input"])
@pytest.mark.parametrize("has_triton", [True, False], ids=["Triton", "its stand-in"])
def test_a_function_without_a_source_is_refused_in_one_line(
    name: str, has_triton: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_triton:
        monkeypatch.setattr(lang, "_jit", lang._Function)

    def define_and_make() -> None:
        namespace: dict[str, Any] = {}
        exec(compile(IN_NO_FILE, name, "exec"), namespace)
        environment(namespace["step"])(2, device="cpu", backend="numpy")

    with pytest.raises(UnsupportedConstruct) as raised:
        define_and_make()
    advice = "define environment functions in a file or a notebook cell"
    assert str(raised.value) == f"the source of step cannot be read: {advice}"
    # Without the traceback of whoever could not read it.
    assert raised.value.__suppress_context__
