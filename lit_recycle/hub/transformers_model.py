"""Causal language models of transformers in training: loss in chunks, documents kept apart, and routing looked at.

Axes: B batch, S sequence, T = B·S tokens, E experts, K experts of a token, V vocabulary, L MoE layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_recycle.hub.shape import INSIDE, HubShape, build
from lit_recycle.model.documents import positions_in_documents
from lit_recycle.model.experts import Routing
from lit_recycle.model.kernels.loss import LEFT_OUT
from lit_recycle.model.loss import next_token_loss

WHOLE_LOGITS = (
    "final_logit_softcapping",
    "logits_scaling",
    "logit_scale",
    "lm_head_multiplier",
    "mup_width_multiplier",
)
"""Config keys with which a model does more to its last hidden state than multiply it by the output layer's weight."""
LEAK = 0.1
"""Relative change of a document's hidden states by another one that is more than rounding."""


class TransformersModel(nn.Module):
    """A model of transformers with the interface of :class:`lit_recycle.model.transformer.MoETransformer`.

    Args:
        shape: What to build.
        activation_checkpointing: Keep only the inputs of each layer and recompute the rest in the backward pass.
    """

    hf: Any
    """The model, a ``PreTrainedModel``."""

    def __init__(self, shape: HubShape, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.shape = shape
        self.hf = build(shape.config)
        self.hf.config.use_cache = False
        materialise_buffers(self.hf)
        if activation_checkpointing:
            self.hf.gradient_checkpointing_enable({"use_reentrant": False})
        self._logits: dict[int, Tensor] = {}
        self._chosen: dict[int, Tensor] = {}
        self._separates = False
        self._layers: list[int] = []
        self._biases: dict[int, tuple[nn.Module, str]] = {}
        self._watch()

    def forward(
        self,
        tokens_BS: Tensor,
        cache: list[Any] | None = None,
        labels_BS: Tensor | None = None,
        documents_BS: Tensor | None = None,
    ) -> tuple[Tensor, Routing | None]:
        """See :meth:`lit_recycle.model.transformer.MoETransformer.forward`.

        transformers tells documents apart by positions that begin anew.
        """
        if documents_BS is not None and not self._separates:
            self._check_documents()
        self._logits.clear()
        self._chosen.clear()
        if cache is not None:
            out = self.hf(tokens_BS, past_key_values=cache[0] if cache else None, use_cache=True, logits_to_keep=1)
            cache[:] = [out.past_key_values]
            return out.logits, self._routing()
        options: dict[str, Any] = {"use_cache": False}
        if documents_BS is not None:
            options["position_ids"] = positions_in_documents(documents_BS)
        if labels_BS is None or not self._has_plain_logits:
            out = self.hf(tokens_BS, **options).logits
            if labels_BS is not None:
                out = F.cross_entropy(out.flatten(0, 1).float(), labels_BS.flatten(), ignore_index=LEFT_OUT)
        else:
            hidden_BSD = self._hidden(tokens_BS, **options)
            out = next_token_loss(hidden_BSD.flatten(0, 1), self.hf.get_output_embeddings().weight, labels_BS.flatten())
        return out, self._routing()

    @property
    def _has_plain_logits(self) -> bool:
        """Whether logits are products of the last hidden states with the output layer's weight, and nothing more."""
        if getattr(self.hf.get_output_embeddings(), "bias", None) is not None:
            return False
        return all(getattr(self.hf.config, key, None) in (None, 1, 1.0) for key in WHOLE_LOGITS)

    def _hidden(self, tokens_BS: Tensor, **options: Any) -> Tensor:
        """The last hidden states, ``[B, S, D]``."""
        base = self.hf.base_model
        base = self.hf.model if base is self.hf else base  # Llama 4 says that it is inside of a larger model
        return base(tokens_BS, **options).last_hidden_state

    @torch.no_grad()
    def _check_documents(self) -> None:
        """See, once, that what stands in one document changes nothing in the next: not all models look at positions.

        Raises:
            ValueError: Where it does.
        """
        device, size = next(self.hf.parameters()).device, self.shape.size("V")
        position_ids = torch.arange(8, device=device).remainder(4).unsqueeze(0)
        before, after = (torch.arange(start, start + 4, device=device).remainder(size) for start in (0, 4))
        was_training = self.hf.training
        self.hf.eval()
        first, second = (
            self._hidden(torch.cat((other, after)).unsqueeze(0), position_ids=position_ids, use_cache=False)[:, 4:]
            for other in (before, before.flip(0))
        )
        self.hf.train(was_training)
        if (first - second).float().norm() > LEAK * first.float().norm():
            raise ValueError(
                f"data.documents mask cannot keep documents apart in a {self.shape.config['model_type']} model: "
                "transformers lets each see those before it; set data.documents pack"
            )
        self._separates = True

    def tie_weights(self) -> None:
        """Make tied parameters one, after weights were assigned."""
        self.hf.tie_weights()

    # --- routing -----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Look at routers and experts; found now, for some wrappers hide what parameters a module has."""
        routers, experts = {}, {}
        for name, module in self.hf.named_modules():
            for own, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                place = self.shape.naming.parse(f"{INSIDE}{name}.{own}")
                if place.layer is None:
                    continue
                if place.axes.label == "balance":
                    self._biases[place.layer] = module, own
                elif "router" in place.axes.matrices:
                    routers[place.layer] = module
                elif place.axes.expert_dimension is not None and set(place.axes.matrices) & {"gate", "up", "down"}:
                    experts[place.layer] = module
        self._layers = sorted(routers.keys() & experts.keys())
        for layer in self._layers:
            routers[layer].register_forward_hook(self._watch_router(layer))
            experts[layer].register_forward_pre_hook(self._watch_experts(layer), with_kwargs=True)

    def _watch_router(self, layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            assert self.shape.family.routing is not None
            logits = output[self.shape.family.routing.logits] if isinstance(output, tuple) else output
            self._logits[layer] = logits.flatten(0, -2)

        return hook

    def _watch_experts(self, layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and not v.is_floating_point()]
            if given:  # elsewhere the best by logits are chosen
                self._chosen[layer] = given[0]

        return hook

    def _routing(self) -> Routing | None:
        """Of the last forward pass, stacked over MoE layers; None for a model without any."""
        if not self._layers:
            return None
        found = [self._routing_of(layer) for layer in self._layers]
        return Routing(*(torch.stack(values) for values in zip(*found, strict=True)))

    def _routing_of(self, layer: int) -> Routing:
        logits_TE = self._logits[layer].float()
        chosen = self._chosen[layer] if layer in self._chosen else logits_TE.topk(self.shape.top_k).indices
        chosen = chosen.flatten()
        ones = torch.ones(chosen.numel(), device=chosen.device)
        counts_E = ones.new_zeros(self.shape.experts[layer]).index_add_(0, chosen, ones)
        routing = self.shape.family.routing
        if routing is not None and routing.kind == "sigmoid":
            scores_TE = logits_TE.sigmoid()
            shares_TE = scores_TE / scores_TE.sum(-1, keepdim=True)
        else:
            shares_TE = logits_TE.softmax(-1)
        return Routing(counts_E, shares_TE.mean(0), logits_TE.logsumexp(-1).square().mean())

    def balance_biases(self) -> list[Tensor | None]:
        """The balancing bias of each MoE layer, in order; None where there is none."""
        places = (self._biases.get(layer) for layer in self._layers)
        return [getattr(*place).detach() if place else None for place in places]


def materialise_buffers(model: Any) -> None:
    """Give the buffers that no checkpoint holds (rotary frequencies and the like) their values on the meta device.

    What transformers does after loading: all that is kept in a checkpoint is marked as initialised
    (``_is_hf_initialized``, private to transformers), and the model is asked to initialise the rest.
    """
    kept = model.state_dict(keep_vars=True)
    lost = [name for name, buffer in model.named_buffers() if buffer.is_meta and name not in kept]
    for tensor in kept.values():
        tensor._is_hf_initialized = True
    with torch.device("cpu"):
        for name in lost:
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, torch.empty_like(model.get_buffer(name), device="cpu"))
        for owner in {name.rpartition(".")[0] for name in lost}:
            model._init_weights(model.get_submodule(owner))
