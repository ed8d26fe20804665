"""Whether stored numbers are finite, from their bits: without torch, and at the speed of memory."""

from __future__ import annotations

import numpy as np

INFINITY = {
    "F64": 0x7FF0_0000_0000_0000, "F32": 0x7F80_0000, "F16": 0x7C00, "BF16": 0x7F80, "F8_E5M2": 0x7C, "F8_E4M3": 0x7F
}  # fmt: skip
"""Smallest bit pattern, sign aside, that is no finite number, by the type's name in safetensors."""


def check_finite(data: memoryview, dtype: str, origin: str) -> None:
    """Raises ``ValueError`` for values of a type of floating-point numbers that are infinite or none.

    Args:
        data: The values.
        dtype: Their type, as safetensors writes it; whole numbers pass.
        origin: Where they are from, for the message.
    """
    infinity = INFINITY.get(dtype)
    if infinity is None or not len(data):
        return
    bits = infinity.bit_length() + 1
    signed = np.frombuffer(data, f"<i{bits // 8}")
    # As whole numbers those without a sign are in order, and above them, when it counts as a digit, those with one.
    if signed.max() >= infinity or signed.view(f"<u{bits // 8}").max() >= infinity + (1 << (bits - 1)):
        raise ValueError(
            f"{origin} holds values that are no finite numbers: the file is damaged, or the model broke in training; "
            "fetch it again"
        )
