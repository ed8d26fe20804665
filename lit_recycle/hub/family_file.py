"""Model family described by a user in a YAML file, for ``lit-recycle grow --family``. No torch.

The keys are the fields of :class:`lit_recycle.hub.family.Family`; ``docs/add-a-family.md`` explains them by an example.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from lit_recycle.growth.axes import parse_axes
from lit_recycle.hub.dense_layers import RULES, DenseLayers
from lit_recycle.hub.families import FAMILIES
from lit_recycle.hub.family import Family, Routing
from lit_recycle.hub.patterns import cycle

LIKE = "like"
MERGED = ("axes", "others", "sizes", "keys", "patterns")
"""Keys whose entries are added to those of the family that it is like."""
IN_CODE_ALONE = ("native", "becomes", "upcycled", "implied")


def read_family(path: str | Path) -> Family:
    """The family that a YAML file describes.

    Args:
        path: The file. ``like`` names a known family to start from; the other keys replace its fields or, for
            mappings such as ``axes``, add to them.

    Raises:
        ValueError: For a file that is not there, no YAML, or has a key or value that no family has.
    """
    import yaml

    path = Path(path).expanduser()
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--family {path} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"--family {path} is not YAML: {' '.join(str(error).split())}") from None
    try:
        return family_from(values)
    except ValueError as error:
        raise ValueError(f"--family {path}: {error}") from None


def family_from(values: Any) -> Family:
    """As :func:`read_family`, from plain types."""
    known = [LIKE, *(field.name for field in fields(Family) if field.name not in IN_CODE_ALONE)]
    values = _mapping(values, "a family", known)
    base = _base(values.pop(LIKE, None))
    changes = {key: _read(key, value) for key, value in values.items()}
    for key in MERGED:
        if key in changes:
            changes[key] = {**getattr(base, key), **changes[key]}
    family = replace(base, **changes)
    if not family.axes:
        raise ValueError("it names no tensors: give axes, or a known family that it is like")
    return family


def _base(name: Any) -> Family:
    if name is None:
        return Family({})
    if name not in FAMILIES:
        raise ValueError(f"like: {name!r} is no known family; `lit-recycle families` lists them")
    return replace(FAMILIES[name], native=None, becomes=None, upcycled=None)


def _read(key: str, value: Any) -> Any:
    if key in ("axes", "others"):
        return {name: _axes(key, name, text) for name, text in _mapping(value, key).items()}
    if key == "routing":
        return None if value is None else _routing(_mapping(value, key, [f.name for f in fields(Routing)]))
    if key == "dense":
        return _dense(value)
    if key == "patterns":
        return {name: cycle(*entries) for name, entries in _mapping(value, key).items()}
    if isinstance(_example(key), Mapping):
        return _mapping(value, key)
    if key == "identity_unless":
        return tuple(value)
    if not isinstance(value, type(_example(key))):
        raise ValueError(f"{key} must be {type(_example(key)).__name__}, got {value!r}")
    return value


def _example(key: str) -> Any:
    return getattr(Family({}), key)


def _axes(key: str, name: Any, text: Any) -> str:
    if not isinstance(name, str) or not isinstance(text, str):
        raise ValueError(f"{key}: {name!r} must be a name with an axis string, got {text!r}")
    try:
        parse_axes(text)
    except ValueError as error:
        raise ValueError(f"{key}: {name}: {error}") from None
    return text


def _routing(values: dict[str, Any]) -> Routing:
    if "groups" in values:
        values["groups"] = tuple(values["groups"])
    if values.get("kind") not in KINDS:
        raise ValueError(f"routing.kind must be one of {', '.join(KINDS)}, got {values.get('kind')!r}")
    return Routing(**values)


KINDS = ("softmax", "top-k softmax", "sigmoid", "sparsemixer")


def _dense(value: Any) -> DenseLayers:
    values = {"rule": value} if isinstance(value, str) else _mapping(value, "dense")
    rule = values.pop("rule", None)
    if rule not in RULES:
        raise ValueError(f"dense: give a rule, one of {', '.join(RULES)}, got {rule!r}")
    values = _mapping(values, f"dense {rule}", [f.name for f in fields(RULES[rule])])  # type: ignore[arg-type]
    return RULES[rule](**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})


def _mapping(value: Any, what: str, known: list[str] | None = None) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} must be a mapping of keys to values, got {value!r}")
    unknown = [str(key) for key in value if known is not None and key not in known]
    if unknown and known is not None:
        raise ValueError(f"{what} has no key {', '.join(unknown)}; its keys are {', '.join(known) or 'none'}")
    return dict(value)
