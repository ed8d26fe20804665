"""Which elements of a model a growth has added, after later growths too; and what is said of their updates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import tiny
from maps import WidenEachExpert

from lit_recycle.growth.event import GrowthEvent, Rewarm, Trigger
from lit_recycle.growth.facts import Unmeasured
from lit_recycle.growth.history import GrowthRecord, of_earlier_run
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.new_rows import NewRows, blocks
from lit_recycle.growth.operator import Operator
from lit_recycle.growth.operators import (
    DropLayers,
    DuplicateExperts,
    Interpose,
    PruneExperts,
    PruneInner,
    RandomLayers,
    Stack,
    Upcycle,
    WidenHeads,
    WidenHidden,
    WidenInner,
)
from lit_recycle.growth.optimizer import grow_optimizer_state
from lit_recycle.growth.plan import plan_growth
from lit_recycle.growth.schedule import Progress
from lit_recycle.growth.update_rules import check_rules, count_trained, factor, in_words, update_rules
from lit_recycle.hub.shape import parameter_shapes
from lit_recycle.model.config import MoEConfig

MOE = tiny(qkv_bias=True, shared_expert_size=2, dense_layers=[0], dense_size=4)
DENSE = tiny(num_experts=0, dense_layers=[0, 1, 2], dense_size=4)
HISTORIES: dict[str, tuple[MoEConfig, list[list[Operator]]]] = {
    "depth": (MOE, [[Interpose()]]),
    "depth, then stacked": (MOE, [[Interpose()], [Stack(keep_first=0)]]),
    "random layers": (MOE, [[RandomLayers()]]),
    "experts": (MOE, [[DuplicateExperts(2)]]),
    "experts, uneven, then depth": (MOE, [[DuplicateExperts(num_experts=5, top_k=2)], [Interpose()]]),
    "experts twice": (MOE, [[DuplicateExperts(2, order="appended")], [DuplicateExperts(2)]]),
    "both in one event": (MOE, [[Interpose(), DuplicateExperts(2)]]),
    "hidden size and heads": (MOE, [[WidenHidden(), WidenHeads()]]),
    "inner width, then experts": (MOE, [[WidenInner(size=7)], [DuplicateExperts(2)]]),
    "dense width, then hidden size": (DENSE, [[WidenInner("dense")], [WidenHidden()]]),
    "experts, then some pruned": (MOE, [[DuplicateExperts(2)], [PruneExperts(4)], [DropLayers([0])]]),
    "inner width, then channels pruned": (MOE, [[WidenInner(size=7)], [PruneInner(5, "experts")], [Interpose()]]),
    "by expert": (MOE, [[WidenEachExpert(6)], [DuplicateExperts(num_experts=5, top_k=3)], [PruneInner(5, "experts")]]),
    "by expert, experts pruned": (MOE, [[WidenEachExpert(6), DuplicateExperts(2)], [PruneExperts(3, top_k=2)]]),
    "upcycled": (DENSE, [[Upcycle(4, granularity=2)], [DuplicateExperts(2)]]),
    "upcycled and copied at once": (DENSE, [[Upcycle(4), Interpose()]]),
}


class Ranks(Unmeasured):
    """Facts that put entries into an order of some kind, another one in each layer."""

    def __call__(self, name: str) -> list[list[float]]:
        return [
            [float((5 * i + layer) % 7) for i in range(len(row))] for layer, row in enumerate(super().__call__(name))
        ]


def history(
    config: MoEConfig, growths: list[list[Operator]], **event: Any
) -> tuple[NativeModel, list[dict[str, Any]], dict[str, dict[str, torch.Tensor]]]:
    """The model in the end, records of its growths, and which elements are old: not zero.

    They are found by the engine: the first growth gives copies fresh state, which later ones carry along.
    """
    model, records = NativeModel(config), []
    states = {name: {"exp_avg": torch.ones(tuple(shape))} for name, shape in parameter_shapes(model).items()}
    for number, operators in enumerate(growths):
        written = GrowthEvent(Trigger(steps=number + 1), grow=operators, **(event if not number else {}))
        plan = plan_growth(model, operators, facts=Ranks)
        records.append(GrowthRecord.of(written, Progress(number + 1, 2, 3), plan, list(states)).to_dict())
        states = grow_optimizer_state(plan, states, "carry" if number else "fresh_copies", "AdamW")
        model = plan.after
    return model, records, states


@pytest.mark.parametrize("name", HISTORIES)
def test_what_is_new_is_what_fresh_copies_begin_with_nothing(name: str) -> None:
    model, records, states = history(*HISTORIES[name])
    new, seen = NewRows.of(records), 0
    for tensor, shape in parameter_shapes(model).items():
        found, covered = torch.zeros(tuple(shape), dtype=torch.bool), torch.zeros(tuple(shape))
        for block in blocks(model.naming.parse(tensor), shape, [new]):
            index = torch.meshgrid(
                *(torch.tensor(range(n) if i is None else i) for i, n in zip(block.indices, shape, strict=True)),
                indexing="ij",
            )
            assert index[0].numel() == block.size
            found[index], covered[index] = block.kind[0], covered[index] + 1
        assert covered.eq(1).all(), "each element is in one block"
        assert torch.equal(found, states[tensor]["exp_avg"] == 0), tensor
        seen += int(found.sum())
    assert 0 < seen < model.num_params()


def test_a_router_that_is_drawn_anew_is_new_as_a_whole() -> None:
    model, (record,), _ = history(MOE, [[DuplicateExperts(2, router="draw_all")]])
    assert record["drawn"] == [[1, "moe.router.weight"], [2, "moe.router.weight"]]
    (block,) = blocks(model.naming.parse("model.layers.2.moe.router.weight"), (6, 8), [NewRows.of([record])])
    assert block.kind == (True,)
    _, records, _ = history(MOE, [[DuplicateExperts(2, router="draw_all")], [Stack(keep_first=0)]])
    assert {layer for layer, _ in NewRows.of(records).tensors} == {1, 2, 4, 5}, "of later copies, too"


def test_experts_cut_out_of_a_dense_network_are_new_where_their_channels_were() -> None:
    _, records, _ = history(DENSE, [[WidenInner("dense", size=6)], [Upcycle(6, 3, granularity=3)]])
    assert NewRows.of(records).entries["E", 0] == (False, False, True, False, False, True)


def test_factors_of_several_growths_are_multiplied_while_they_last() -> None:
    ramp = Rewarm(2, 1.0, peak=3.0, back_steps=2, who="new")
    _, first, _ = history(MOE, [[Interpose()]], train="new", train_steps=2)
    _, second, _ = history(tiny(), [[DuplicateExperts(2)]], rewarm=ramp)
    growth = [first[0], second[0] | {"steps": 2}]  # at steps 1 and 2

    def factors(step: int) -> list[float]:
        rules = update_rules(growth, step)
        return [factor(rules, (False,) * len(rules), step), factor(rules, (True,) * len(rules), step)]

    assert [factors(step) for step in range(2, 7)] == [[0.0, 1.0], [1.0, 2.0], [1.0, 3.0], [1.0, 2.0], [1.0, 1.0]]
    assert update_rules(growth, 6) == []


def test_a_plan_counts_what_is_trained() -> None:
    model, records, states = history(MOE, [[DuplicateExperts(2)]], train="new")
    expected = sum(int((state["exp_avg"] == 0).sum()) for state in states.values())
    assert count_trained(records, 1, model.naming, parameter_shapes(model)) == expected
    assert in_words(records[0]["event"]) == "new rows alone"


def test_growths_after_which_nothing_would_be_trained_are_refused() -> None:
    for event in ({"train": "new"}, {"rewarm": Rewarm(2, who="new")}):
        _, records, _ = history(MOE, [[PruneExperts(2)]], **event)
        with pytest.raises(ValueError, match=r"event 1 .at 1 steps. adds nothing to the model that .*new could mean"):
            check_rules(records)
        with pytest.raises(ValueError, match=r"event 1 .at 1 steps. adds nothing"):  # of this run, not of the model
            check_rules([*of_earlier_run(history(MOE, [[Interpose()]])[1]), *records])
    _, records, _ = history(MOE, [[Interpose()], [DropLayers([1, 3, 5])]], train="new")
    with pytest.raises(ValueError, match=r"nothing would be trained after event 2 .at 2 steps."):
        check_rules(records)
    _, records, _ = history(MOE, [[Interpose()], [DropLayers([1, 3, 5])]], train="new", train_steps=1)
    check_rules(records)
