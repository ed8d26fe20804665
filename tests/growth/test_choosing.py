"""Operators that choose by norms see the model as the operators before them in an event have left it."""

import pytest
from helpers import assert_same_tensors, built, configs, grown_by, tiny
from hypothesis import given
from hypothesis import strategies as st

from lit_recycle.growth.operators import (
    DuplicateExperts,
    Interpolate,
    Interpose,
    PruneExperts,
    PruneInner,
    WidenHidden,
    WidenInner,
)

CHOOSING = {
    "copied": DuplicateExperts(2, by="norm", top_k=2, noise=0.0),
    "pruned": PruneExperts(2, top_k=1),
    "channels of experts": PruneInner(2, "experts"),
    "channels of the shared expert": PruneInner(2, "shared"),
}
OTHERS = {
    "interpose": Interpose(2),
    "blend": Interpolate(0.25),
    "hidden": WidenHidden(2),
    "inner": WidenInner("experts", size=7),
    "experts": DuplicateExperts(2, top_k=2, noise=0.0),
}
SIZES = dict(num_layers=3, num_experts=4, top_k=2, expert_size=4, shared_expert_size=4, tie_embeddings=False)


@given(
    configs(**SIZES, dense_layers=(1,)),
    st.sampled_from(list(OTHERS)),
    st.sampled_from(list(CHOOSING)),
    st.booleans(),
    st.integers(0, 9),
)
def test_two_operators_in_one_event_are_two_events(config, other, choosing, chooses_first, seed):
    model = built(config, seed)
    first, second = (CHOOSING[choosing], OTHERS[other]) if chooses_first else (OTHERS[other], CHOOSING[choosing])
    at_once, one_by_one = grown_by(model, first, second), grown_by(grown_by(model, first), second)
    assert at_once.config == one_by_one.config
    assert_same_tensors(at_once.state_dict(), one_by_one.state_dict())


@pytest.mark.parametrize("first", [PruneExperts(3), PruneInner(3, "experts")], ids=str)
def test_two_that_choose(first):
    model = built(tiny(num_experts=4))
    second = DuplicateExperts(num_experts=6, by="norm", top_k=2, noise=0.0)
    assert_same_tensors(
        grown_by(model, first, second).state_dict(), grown_by(grown_by(model, first), second).state_dict()
    )


def test_noise_of_the_first_is_seen_by_the_second():
    model = built(tiny(num_experts=4))
    noisy, prune = DuplicateExperts(noise=3.0, top_k="keep"), PruneExperts(4)
    kept = grown_by(model, noisy, prune).state_dict()
    seen = grown_by(grown_by(model, noisy), prune).state_dict()
    assert_same_tensors(kept, seen)
