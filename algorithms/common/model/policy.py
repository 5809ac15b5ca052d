"""`Policy`: a causal language model of transformers with its tokenizer, and the operations that training needs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from algorithms.common.distributed.processes import Processes
from algorithms.common.distributed.sharding import gather_full_tensor
from algorithms.common.model.chat_template import ChatTemplate
from algorithms.common.model.checkpointing import checkpoint_activations
from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.context import usable_context
from algorithms.common.model.logprobs import ChunkedLogprobs, max_logits, tempered_log_softmax
from algorithms.common.model.packing import Pack, install_packed_attention, own_attention
from algorithms.common.model.pretrained import DTYPES, load_pretrained
from algorithms.common.model.tokenizer import PolicyTokenizer
from algorithms.common.model.variable_length import Padded, attention_for
from algorithms.common.model.verification import verify


class Policy:
    """A model and its tokenizer. Shapes: B rows, T tokens, n tokens of a packed pass, V vocabulary.

    `model` is the causal model of transformers; `adapter` is the peft model around it, if only adapters are trained.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        chat: bool = False,
        chat_template: ChatTemplate | None = None,
        context_length: int | None = None,
        compute_dtype: str | None = None,
        adapter: Any = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        configured = getattr(model.generation_config, "eos_token_id", None)
        eos_ids = configured if isinstance(configured, list) else [configured]
        self.tokenizer = PolicyTokenizer(tokenizer, chat=chat, eos_ids=eos_ids, chat_template=chat_template)
        install_packed_attention(model)
        # A model stays in evaluation mode, also in updates: the sampler and the trainer must use the same distribution,
        # and dropout, jitter of routers and the like are random in training mode only.
        model.eval()
        if gradient_checkpointing:
            checkpoint_activations(model)
        self.model = model
        self.adapter = adapter
        self.saving_verified = False  # whether `verify_saved` has passed
        self.compute_dtype = DTYPES[compute_dtype] if compute_dtype else None
        self.context_length = usable_context(model.config, context_length)

    @classmethod
    def load(cls, config: PolicyConfig, processes: Processes | None = None) -> Policy:
        """Load model and tokenizer with the Auto classes of transformers. All `processes` of a run must call it."""
        model, tokenizer, adapter = load_pretrained(config, processes)
        policy = cls(
            model,
            tokenizer,
            chat=config.chat,
            chat_template=config.chat_template,
            context_length=config.context_length,
            compute_dtype=config.compute_dtype,
            adapter=adapter,
            gradient_checkpointing=config.gradient_checkpointing,
        )
        verify(policy)
        return policy

    def save(self, folder: str | Path, weights: dict[str, Tensor] | None = None) -> None:
        """Save the model, or only its adapter, and the tokenizer in the transformers format.

        `weights`: the state dict to save, if the model itself holds only a shard of it.
        """
        options: dict[str, Any] = {} if weights is None else {"state_dict": weights}
        if self.adapter is None:
            self.model.save_pretrained(folder, **options)
        else:  # embeddings are not trained: peft would look for the base model's on the hub to find out
            self.adapter.save_pretrained(folder, save_embedding_layers=False, **options)
        self.tokenizer.hf_tokenizer.save_pretrained(folder)
        if self.adapter is not None:
            (Path(folder) / "README.md").unlink(missing_ok=True)  # peft's template of a model card

    def replica(self, dtype: torch.dtype, compute_dtype: torch.dtype | None = None) -> Policy:
        """A frozen copy in another precision."""
        copied = copy.copy(self)
        # Only weights are cast, one by one. Buffers keep their precision: rotary frequencies in bfloat16 are off by
        # 2^-9, which at a thousand tokens is more than a radian.
        cast = {id(p): torch.nn.Parameter(p.detach().to(dtype, copy=True), False) for p in self.model.parameters()}
        copied.model = copy.deepcopy(self.model, cast)
        copied.adapter = None
        copied.compute_dtype = compute_dtype
        return copied

    def float32_replica(self) -> Policy:
        """A float32 copy. Flash attention supports no float32: padded passes of its copy use eager attention."""
        copied = self.replica(torch.float32)
        if "flash" in own_attention(copied.model):
            install_packed_attention(copied.model, "eager")
        return copied

    def with_cast_weights(self) -> Policy:
        """This policy with the weights of its linear layers stored in the compute precision; it shares all others.

        It computes the same as this policy, whose weights autocast casts in every pass. For a pass of a few tokens
        that takes longer than the pass itself. Needs a `compute_dtype`.
        """
        copied = copy.copy(self)
        copied.model = copy.deepcopy(self.model, {id(p): p for p in self.model.parameters()})
        copied.adapter = None
        for layer in copied.model.modules():
            if isinstance(layer, torch.nn.Linear) and layer.weight.is_floating_point():
                for name, weights in tuple(layer.named_parameters(recurse=False)):
                    setattr(layer, name, torch.nn.Parameter(weights.detach().to(self.compute_dtype), False))
        return copied

    @torch.no_grad()
    def copy_weights(self, source: Policy) -> None:
        """Copy the weights of the policy that this one was copied from. Every process must call it."""
        copied: set[int] = set()
        for mine, theirs in zip(self.model.modules(), source.model.modules(), strict=True):
            for name, weights in theirs.named_parameters(recurse=False):
                target = mine.get_parameter(name)
                # Frozen weights have not changed since the copy was made. Tied ones are copied once.
                if target is not weights and weights.requires_grad and id(target) not in copied:
                    target.copy_(gather_full_tensor(weights))
                    copied.add(id(target))

    @property
    def device(self) -> torch.device:
        """Device of the model's inputs."""
        device: torch.device = self.model.device
        return device

    @property
    def attends_by_length(self) -> bool:
        """Whether packed passes attend by real lengths, rather than on padded rows."""
        return not isinstance(attention_for(self.device.type, self.compute_dtype or self.model.dtype), Padded)

    @property
    def body(self) -> Any:
        """The part of the model that computes hidden states."""
        body = self.model.base_model
        if body is self.model:  # where the model does not know the name of its body
            body = self.model.get_decoder()
        return self.model.model if body is self.model else body

    @property
    def width(self) -> int:
        """Size of a hidden state."""
        return int(self.model.config.get_text_config().hidden_size)

    def forward_packed(self, packed: Pack) -> Tensor:
        """Last hidden states [n, width] of a packed pass."""
        no_mask = torch.empty(1, 1, 0, 0)  # four dimensions, so that transformers makes none; it is not read
        with self.autocast():
            output = self.body(
                input_ids=packed.ids_n[None],
                position_ids=packed.positions_n[None],
                attention_mask=no_mask,
                packed=packed,
                use_cache=False,
            )
        states: Tensor = output.last_hidden_state[0]
        return states

    def hidden_states(self, ids_BT: Tensor) -> Tensor:
        """Last hidden states [B, T, width] of rows padded on the right, which causal attention never reads."""
        with self.autocast():
            states: Tensor = self.body(input_ids=ids_BT, use_cache=False).last_hidden_state
        return states

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] in float32 of hidden states [..., width]."""
        with self.autocast():
            logits: Tensor = self.model.get_output_embeddings()(hidden).float()
        if self._logit_scale != 1.0:
            logits = logits * self._logit_scale
        cap = self._logit_cap
        return torch.tanh(logits / cap) * cap if cap else logits

    def token_logprobs(
        self, ids_BT: Tensor, mask_BT: Tensor, temperature: float = 1.0, *, entropy_gradient: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Log-prob and entropy of each masked token given all before it; both [n], n masked tokens in row order.

        Rows are padded on the right. Logits are computed for masked positions only. The first token of a row has
        nothing before it and can't be masked.
        """
        hidden_BT = self.hidden_states(ids_BT)
        hidden, targets = hidden_BT[:, :-1][mask_BT[:, 1:]], ids_BT[:, 1:][mask_BT[:, 1:]]
        return self.logprobs_of(hidden, targets, temperature, entropy_gradient=entropy_gradient)

    def logprobs_of(
        self, hidden_n: Tensor, targets_n: Tensor, temperature: float = 1.0, *, entropy_gradient: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Log-prob of each target and entropy, both [n], given the hidden states [n, width] before it.

        At most `max_logits` logits exist at once: more tokens are processed in chunks, which the backward pass
        recomputes. The entropy has a gradient only with `entropy_gradient`.
        """

        def chunk(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            logps = tempered_log_softmax(self.logits(hidden), temperature)
            chosen = logps.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
            with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
                entropy = -(logps.exp() * logps).sum(-1)
            return chosen, entropy

        size = max(1, max_logits(hidden_n.device.type) // int(self.model.config.get_text_config().vocab_size))
        if len(hidden_n) <= size:
            return chunk(hidden_n, targets_n)
        head = self.model.get_output_embeddings()
        plain = type(head) is torch.nn.Linear and head.bias is None and not self._logit_cap
        if plain and torch.is_grad_enabled():
            dtype = self.compute_dtype or head.weight.dtype
            chosen, entropy = ChunkedLogprobs.apply(  # type: ignore[no-untyped-call] # torch's apply
                hidden_n, head.weight, targets_n, temperature / self._logit_scale, size, dtype
            )
            return chosen, entropy if entropy_gradient else entropy.detach()
        pieces = zip(torch.split(hidden_n, size), torch.split(targets_n, size), strict=True)
        if torch.is_grad_enabled():
            parts = [checkpoint(chunk, hidden, targets, use_reentrant=False) for hidden, targets in pieces]
        else:
            parts = [chunk(hidden, targets) for hidden, targets in pieces]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    @property
    def _logit_scale(self) -> float:
        """Factor that the model applies to its logits (Cohere, Granite)."""
        config = self.model.config
        return float(getattr(config, "logit_scale", None) or 1.0) / float(
            getattr(config, "logits_scaling", None) or 1.0
        )

    @property
    def _logit_cap(self) -> float | None:
        """Soft cap of the final logits (Gemma 2), or None."""
        cap: float | None = getattr(self.model.config, "final_logit_softcapping", None)
        return cap

    def autocast(self) -> torch.autocast:
        """Context of a pass in the compute precision."""
        return torch.autocast(self.device.type, dtype=self.compute_dtype, enabled=self.compute_dtype is not None)


class PolicyModule(torch.nn.Module):
    """`Policy.token_logprobs` as a module for DDP or FSDP2 to wrap, so that their hooks see a whole pass."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.model = policy.model
        self._policy = policy

    def forward(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """As `Policy.token_logprobs`."""
        chosen, entropy = self._policy.token_logprobs(*arguments, **options)
        return chosen.clone(), entropy.clone()  # views would lose FSDP's hooks


class BasePolicy:
    """The starting policy of a policy with an adapter: the same weights, with the adapter disabled."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.device, self.tokenizer = policy.device, policy.tokenizer

    def token_logprobs(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """`Policy.token_logprobs` of the starting policy."""
        with self.policy.adapter.disable_adapter():
            return self.policy.token_logprobs(*arguments, **options)
