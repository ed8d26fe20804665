"""Who is whose copy, after several growths."""

from helpers import tiny

from lit_recycle.growth.event import Depth, GrowthEvent, Trigger, Width
from lit_recycle.growth.history import GrowthRecord
from lit_recycle.growth.plan import grow_config
from lit_recycle.growth.schedule import Progress
from lit_recycle.growth.twins import find_twins, plan_of


def history(config, *axes):
    """The shape in the end, and the records of growths along these axes, one after the other."""
    records = []
    for depth, width in axes:
        target, plan = grow_config(config, depth, width)
        event = GrowthEvent(Trigger(steps=1), depth, width)
        records.append(GrowthRecord.of(event, Progress(1, 2, 3), config, target, plan).to_dict())
        config = target
    return config, records


def test_a_model_that_never_grew_has_no_twins():
    twins = find_twins(tiny(dense_layers=[0], dense_size=4), [])
    assert twins.layers == (0, 1, 2) and twins.layer_copies == []
    assert twins.experts == ((), (0, 1, 2), (0, 1, 2))
    assert twins.expert_copies(1) == []


def test_copies_and_their_originals():
    twins = find_twins(*history(tiny(num_layers=2), (Depth(method="stack"), Width())))
    assert twins.layers == (0, 1, 0, 1) and twins.layer_copies == [2, 3]
    assert twins.experts == ((0, 0, 2, 2, 4, 4),) * 4
    assert twins.expert_copies(3) == [1, 3, 5]


def test_growth_along_one_axis_leaves_the_twins_of_the_other():
    deep_then_wide = find_twins(*history(tiny(num_layers=2), (Depth(), None), (None, Width())))
    wide_then_deep = find_twins(*history(tiny(num_layers=2), (None, Width()), (Depth(), None)))
    assert deep_then_wide == wide_then_deep
    assert deep_then_wide.layers == (0, 0, 2, 2)


def test_only_the_last_growth_along_an_axis_counts():
    twins = find_twins(*history(tiny(num_layers=1, num_experts=2), (None, Width()), (None, Width())))
    assert twins.experts == ((0, 0, 2, 2, 4, 4, 6, 6),)
    twins = find_twins(*history(tiny(num_layers=1), (Depth(), None), (Depth(method="stack"), None)))
    assert twins.layers == (0, 1, 0, 1)


def test_the_plan_of_a_record_is_the_plan_that_was_carried_out():
    depth, width = Depth(layers=[0, 2, 2, 1]), Width(factor=3)
    config, (record,) = history(tiny(), (depth, width))
    assert plan_of(record) == grow_config(tiny(), depth, width)[1]
    assert record["layers"] == [0, 2, 2, 1] and record["after"] == config.to_dict()
    assert (record["steps"], record["tokens"], record["flops"]) == (1, 2, 3)
