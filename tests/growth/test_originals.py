"""Who is whose copy, after several growths."""

from helpers import plan_of, tiny

from lit_recycle.growth.event import Depth, GrowthEvent, Trigger, Width
from lit_recycle.growth.facts import Facts
from lit_recycle.growth.history import GrowthRecord
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.operators import DropLayers, PruneExperts, Upcycle
from lit_recycle.growth.originals import find_originals
from lit_recycle.growth.plan import plan_growth
from lit_recycle.growth.schedule import Progress


def history(config, *growths):
    """The shape in the end, and the records of growths by these forms, one after the other."""
    records = []
    for forms in growths:
        event = GrowthEvent(Trigger(steps=1), *forms) if isinstance(forms, tuple) else None
        event = event or GrowthEvent(Trigger(steps=1), grow=forms)
        plan = plan_growth(
            NativeModel(config), event.operators, facts=lambda _: Facts({"norm": lambda: [[1.0, 3.0, 2.0]] * 3})
        )
        records.append(GrowthRecord.of(event, Progress(1, 2, 3), plan).to_dict())
        config = plan.after.config
    return NativeModel(config), records


def test_a_model_that_never_grew_has_no_originals():
    originals = find_originals(NativeModel(tiny(dense_layers=[0], dense_size=4)), [])
    assert originals.layers == (0, 1, 2) and originals.layer_copies == []
    assert originals.experts == ((), (0, 1, 2), (0, 1, 2))
    assert originals.expert_copies(1) == []


def test_copies_and_their_originals():
    originals = find_originals(*history(tiny(num_layers=2), (Depth(method="stack"), Width())))
    assert originals.layers == (0, 1, 0, 1) and originals.layer_copies == [2, 3]
    assert originals.experts == ((0, 0, 2, 2, 4, 4),) * 4
    assert originals.expert_copies(3) == [1, 3, 5]


def test_growth_along_one_axis_leaves_the_originals_of_the_other():
    deep_then_wide = find_originals(*history(tiny(num_layers=2), (Depth(), None), (None, Width())))
    wide_then_deep = find_originals(*history(tiny(num_layers=2), (None, Width()), (Depth(), None)))
    assert deep_then_wide == wide_then_deep
    assert deep_then_wide.layers == (0, 0, 2, 2)


def test_only_the_last_growth_along_an_axis_counts():
    originals = find_originals(*history(tiny(num_layers=1, num_experts=2), (None, Width()), (None, Width())))
    assert originals.experts == ((0, 0, 2, 2, 4, 4, 6, 6),)
    originals = find_originals(*history(tiny(num_layers=1), (Depth(), None), (Depth(method="stack"), None)))
    assert originals.layers == (0, 1, 0, 1)


def test_shrinking_leaves_originals_alone():
    originals = find_originals(*history(tiny(), (Depth(),), [DropLayers([1, 2, 3])], [PruneExperts(2)]))
    assert originals.layers == (0, 1, 2) and originals.experts == ((0, 1),) * 3


def test_experts_of_a_dense_layer_are_copies_of_the_first_of_their_slice():
    config = tiny(num_experts=0, dense_layers=[0, 1, 2], dense_size=4)
    originals = find_originals(*history(config, [Upcycle(4, granularity=2)]))
    assert originals.experts == ((0, 1, 0, 1),) * 3


def test_a_record_holds_what_was_carried_out():
    depth, width = Depth(layers=[0, 2, 2, 1]), Width(factor=3)
    config, (record,) = history(tiny(), (depth, width))
    assert record["maps"] == plan_of(tiny(), depth, width).maps()
    assert record["maps"][0]["layers"] == [0, 2, 2, 1] and record["after"] == config.to_dict()
    assert record["label"] == "depth 3 → 4 (map) and experts ×3" and not record["preserves_function"]
    assert (record["steps"], record["tokens"], record["flops"]) == (1, 2, 3)
