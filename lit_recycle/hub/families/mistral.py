"""Mistral, dense."""

from dataclasses import replace

from lit_recycle.hub.families.llama import FAMILY as LLAMA

assert LLAMA.native is not None
FAMILY = replace(LLAMA, native=replace(LLAMA.native, architecture="MistralForCausalLM", rank=7))
