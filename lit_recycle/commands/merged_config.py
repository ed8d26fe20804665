"""Configuration files merged as ``fit`` merges them, without the classes that they name."""

from __future__ import annotations

from typing import Any


def load_config(argv: list[str]) -> dict[str, Any]:
    """The configuration as ``fit`` would read it: files merged in order, then overrides; ``${…}`` stands as written."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    merged, files, rest = OmegaConf.create(), 0, list(argv)
    try:
        while rest:
            key, _, value = rest.pop(0).partition("=")
            if not key.startswith("--") or (not value and not rest):
                raise ValueError(f"{key!r} is no option with a value: write --key value, as for `lit-recycle fit`")
            value = value or rest.pop(0)
            if key == "--config":
                merged, files = _merge(merged, OmegaConf.load(value)), files + 1
            else:
                merged = _merge(merged, OmegaConf.from_dotlist([f"{key[2:].replace('-', '_')}={value}"]))
    except OmegaConfBaseException as error:
        raise ValueError(f"the configuration cannot be read: {error}") from error
    return _plain(merged, resolve=False)


def resolved(config: dict[str, Any]) -> dict[str, Any]:
    """With values in the place of ``${…}``."""
    from omegaconf import OmegaConf

    return _plain(OmegaConf.create(config), resolve=True)


def _plain(config: Any, *, resolve: bool) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        plain = OmegaConf.to_container(config, resolve=resolve)
    except OmegaConfBaseException as error:
        raise ValueError(f"the configuration cannot be read: {error}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _merge(first: Any, second: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.merge(first, second)
