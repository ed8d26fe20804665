"""Fixtures shared by the tests of Hugging Face folders."""

import pico
import pytest


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Each family's model as the hub has it, with its logits; built when asked for."""
    made = {}

    def source(family):
        if family not in made:
            folder = tmp_path_factory.mktemp(family) / "source"
            model = pico.build(family)
            pico.save(model, family, folder)
            made[family] = folder, pico.logits(model)
        return made[family]

    return source
