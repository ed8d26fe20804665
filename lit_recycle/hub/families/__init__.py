"""Model families of the Hugging Face hub that can be grown, one file each, named by ``model_type``.

To add one, add a file that defines ``FAMILY``; ``docs/add-a-family.md`` shows how. No torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

from lit_recycle.hub.family import Family


class _Files(Mapping[str, Family]):
    """The files of this package by name, each imported when it is asked for."""

    def __init__(self) -> None:
        self._names = sorted(module.name for module in pkgutil.iter_modules(__path__))

    def __getitem__(self, model_type: str) -> Family:
        if model_type not in self._names:
            raise KeyError(model_type)
        return importlib.import_module(f"{__name__}.{model_type}").FAMILY

    def __contains__(self, model_type: object) -> bool:
        return model_type in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


FAMILIES: Mapping[str, Family] = _Files()


def family_of(config: Mapping[str, Any], where: object) -> Family:
    """The family of a ``config.json``.

    Raises:
        ValueError: For a ``model_type`` that is not in ``FAMILIES``.
    """
    model_type = config.get("model_type")
    if model_type in FAMILIES:
        return FAMILIES[str(model_type)]
    raise ValueError(
        f"{where}: model_type {model_type!r} is not known; known are {', '.join(FAMILIES)}. To add one, add a file "
        "with its tensor names and routing to lit_recycle/hub/families/"
    )
