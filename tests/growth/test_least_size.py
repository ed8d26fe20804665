"""The size that a growth will have at least is known from small growths, whatever number is given."""

import pytest
from helpers import tiny

from lit_recycle.growth import least_size as module
from lit_recycle.growth.facts import Unmeasured
from lit_recycle.growth.least_size import least_size
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.operators import (
    BranchTrainMix,
    DuplicateExperts,
    Interpose,
    Middle,
    Stack,
    Upcycle,
    WidenHeads,
    WidenHidden,
    WidenInner,
)
from lit_recycle.growth.plan import plan_growth

MODEL = NativeModel(tiny())
DENSE = NativeModel(tiny(dense_layers=(0, 1, 2), dense_size=12))


def size(model, operators, models=1):
    return plan_growth(model, operators, facts=Unmeasured, models=models).after.num_params()


@pytest.mark.parametrize(
    ("operators", "is_exact"),
    [
        ([Interpose(9)], True),
        ([Interpose(9, keep_first=1)], True),
        ([Interpose(num_layers=27)], True),
        ([Stack(9)], True),
        ([Middle(1, times=9)], True),
        ([DuplicateExperts(9)], True),
        ([DuplicateExperts(num_experts=9 * MODEL.size("E"))], True),
        ([WidenInner(factor=9)], True),
        ([WidenInner(size=9 * MODEL.size("F"))], True),
        ([WidenHeads(9)], True),
        ([WidenHidden(9)], True),
        ([Interpose(9), DuplicateExperts(8)], False),
        ([Interpose(2), DuplicateExperts(8)], True),
    ],
    ids=str,
)
def test_it_is_the_size_or_below_it(monkeypatch, operators, is_exact):
    monkeypatch.setattr(module, "ENOUGH", 4)
    least, actual = least_size(MODEL, operators, lambda small: size(MODEL, small)), size(MODEL, operators)
    assert 0 < least <= actual
    assert (least == actual) == is_exact


@pytest.mark.parametrize("operator", [Upcycle(64), Upcycle(64, granularity=2), BranchTrainMix(64, shares=(0.5, 0.5))])
def test_experts_that_are_made(monkeypatch, operator):
    monkeypatch.setattr(module, "ENOUGH", 4)
    models = len(getattr(operator, "shares", (1.0,)))
    least = least_size(DENSE, [operator], lambda small: size(DENSE, small, models))
    assert least == size(DENSE, [operator], models)


def test_small_growths_are_not_tried_first():
    def never(operators):
        raise AssertionError(operators)

    assert least_size(MODEL, [Interpose(32), DuplicateExperts(32)], never) == 0


def test_of_a_growth_that_cannot_be_the_plan_tells():
    assert least_size(MODEL, [WidenHidden(2), Upcycle(10**9)], lambda small: size(MODEL, small)) == 0
