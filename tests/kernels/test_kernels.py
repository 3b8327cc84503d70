"""What holds for every kernel, derived from its contract and its row (see harness.py)."""

import numpy as np
import pytest

from gollm import _native
from gollm.errors import KernelError
from kernels import harness
from kernels.harness import (
    builds_of,
    call_reference,
    compare,
    expected,
    load_rows,
    make_inputs,
    real_of,
    rng_of,
    run,
    same_bits,
    with_value,
)

ROWS = load_rows()
# The tests of a row run together, while its references are remembered.
rows_and_builds = pytest.mark.parametrize(
    "row, build",
    [pytest.param(row, build, id=f"{name}-{build}") for name, row in ROWS.items() for build in builds_of(row)],
    scope="module",
)


def test_every_kernel_has_a_row():
    assert ROWS.keys() == _native.contracts().keys()


def some(row):
    """Numbers of about eight of its cases, from the first to the last."""
    last = len(row.cases) - 1
    return sorted({round(last * i / 7) for i in range(8)})


def droppable_sets(row):
    """Optional arguments left out: each (with those it goes together with), then all."""
    groups = [frozenset(group) for group in row.together]
    for field in row.contract.of_kind(*{"OPT_IN", "OPT_OUT", "INTO"}):
        if not any(field.name in group for group in groups):
            groups.append(frozenset({field.name}))
    return groups + ([frozenset().union(*groups)] if len(groups) > 1 else [])


@rows_and_builds
def test_values(row, build):
    """Within the error bound of the reference; nothing outside of the buffers touched; no output left unwritten."""
    for index, case in enumerate(row.cases):
        inputs, want, bounds = expected(row, index, real_of(build))
        compare(f"{row.name} ({build}, {case})", run(row, build, case, inputs), want, bounds)


@rows_and_builds
def test_optional_arguments(row, build):
    for drop in droppable_sets(row):
        for index in some(row):
            case = row.cases[index]
            inputs, want, bounds = expected(row, index, real_of(build), drop)
            what = f"{row.name} ({build}, {case}) without {', '.join(sorted(drop))}"
            compare(what, run(row, build, case, inputs, drop=drop), want, bounds)


@rows_and_builds
def test_accumulation(row, build):
    """NAME_accumulate adds to what is there: all destinations, and each with the others overwritten."""
    drop = frozenset(row.adds_without)
    fields = {field.name: field for field in row.contract.of_kind("INTO")}
    choices = [set(fields)] + ([{name} for name in fields] if len(fields) > 1 else [])
    for accumulate in choices if fields else []:
        for index, case in enumerate(row.cases):
            inputs, want, bounds = expected(row, index, real_of(build), drop)
            start = {name: harness.start_of(row, case, fields[name], real_of(build)) for name in accumulate}
            want = want | {name: want[name] + start[name] for name in accumulate}
            eps = harness.eps_of(real_of(build))
            bounds = bounds | {name: 2 * bounds[name] + 8 * eps * np.abs(start[name]) for name in accumulate}
            what = f"{row.name} ({build}, {case}) accumulating into {', '.join(sorted(accumulate))}"
            compare(what, run(row, build, case, inputs, drop=drop, accumulate=accumulate), want, bounds)


@rows_and_builds
def test_threads_and_alignment_do_not_change_a_bit(row, build):
    accumulate = {field.name for field in row.contract.of_kind("INTO")}
    for case in row.cases:
        inputs = make_inputs(row, case, real_of(build))
        for adding in (set(), accumulate) if accumulate else (set(),):
            drop = row.adds_without if adding else ()
            alone = run(row, build, case, inputs, threads=1, drop=drop, accumulate=adding)
            for threads, offset in [(1, 1), (2, 0), (3, 3), (7, 0)]:
                other = run(row, build, case, inputs, threads=threads, offset=offset, drop=drop, accumulate=adding)
                same_bits(f"{row.name} ({build}, {case}) with {threads} threads, offset {offset}", alone, other)


@rows_and_builds
def test_aliasing_does_not_change_a_bit(row, build):
    for alias in row.contract.aliases:
        for case in row.cases:
            inputs = make_inputs(row, case, real_of(build))
            apart, shared = run(row, build, case, inputs), run(row, build, case, inputs, alias=[alias])
            same_bits(f"{row.name} ({build}, {case}) with {alias[0]} = {alias[1]}", apart, shared)


@rows_and_builds
def test_nan_and_infinity_go_where_the_formula_sends_them(row, build):
    real = real_of(build)
    for index in some(row):
        case = row.cases[index]
        clean = expected(row, index, real)[0]
        for number, field in enumerate(row.contract.inputs):
            saved = row.forward and field.name in {output.name for output in ROWS[row.forward].contract.outputs}
            if field.type not in ("real", "wide") or saved or clean[field.name].size == 0 or not row.nonfinite:
                continue
            value = row.nonfinite[(index + number) % len(row.nonfinite)]
            inputs, want = with_value(row, index, real, field.name, value)
            for name, result in run(row, build, case, inputs).items():
                for kind in (np.isnan, np.isposinf, np.isneginf):
                    same = kind(result) == kind(np.asarray(want[name], np.float64)).reshape(result.shape)
                    assert same.all(), (
                        f"{row.name} ({build}, {case}) with {value} in {field.name}: {kind.__name__} differs "
                        f"in {name} at {np.argwhere(~same)[0]}: {result[~same][0]}"
                    )


@rows_and_builds
def test_empty_sizes(row, build):
    """A size of 0 is refused or computed as the reference computes it."""
    for dim in row.empty:
        case = row.cases[-1] | {dim: 0}
        inputs = make_inputs(row, case, real_of(build))
        try:
            got = run(row, build, case, inputs)
        except KernelError:
            continue
        want = call_reference(row, inputs, case)
        scale = np.sqrt(harness.eps_of(real_of(build)))
        compare(f"{row.name} ({build}, {case})", got, want, {name: scale * (1 + np.abs(want[name])) for name in want})


@pytest.mark.parametrize("row", [row for row in ROWS.values() if row.forward], ids=lambda row: row.name)
def test_gradients_are_central_differences_of_the_forward_reference(row):
    """In float64, along random directions: with f = sum of dOUTPUT * OUTPUT, <dx, v> is the slope of f(x + h v) at h
    = 0, here
    by the five-point formula with h = 1e-3, whose error is h^4 f''''' / 30 and, by rounding, about 1e-16 / h."""
    forward = ROWS[row.forward]
    for case in row.cases:
        inputs = make_inputs(row, case, np.float64)
        at = make_inputs(forward, case, np.float64) | inputs
        rng = rng_of(row.name, case, "directions")
        got = run(row, "f64", case, inputs)

        def f(values, inputs=inputs, case=case):
            out = call_reference(forward, values, case)
            return sum((np.asarray(out[name]) * inputs["d" + name]).sum() for name in out if "d" + name in inputs)

        checked = 0
        for name in at:
            if at[name].dtype.kind != "f" or "d" + name not in got:
                continue
            gradient = got["d" + name].astype(np.float64)
            for _ in range(2):
                v = rng.standard_normal(at[name].shape)
                h = 1e-3
                values = [f(at | {name: at[name] + k * h * v}) for k in (-2, -1, 1, 2)]
                slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
                scale = np.linalg.norm(gradient) * np.linalg.norm(v) + np.max(np.abs(values))
                assert abs((gradient * v).sum() - slope) <= 1e-8 * scale, (
                    f"{row.name} ({case}): d{name} gives the slope {(gradient * v).sum()}, differences {slope}"
                )
            checked += 1
        assert checked, f"{row.name} has no output dNAME for an input NAME of {row.forward}"
