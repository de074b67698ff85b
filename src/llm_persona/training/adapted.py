"""A subject while an adapter of it is trained: the adapter's parameters, and the precision of its products."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from llm_persona.subject.load import Subject
from llm_persona.training.recipe import Recipe


@contextmanager
def adapted(subject: Subject, recipe: Recipe, seed: int) -> Iterator[Any]:
    """The model with a fresh LoRA adapter in float32, seeded; without it, and as before, afterwards.

    On a bfloat16 model the adapter's products are bfloat16 ones: in float32 these few took as long on a CPU as the
    model's own. Nothing else is cast, and in float16, whose range is too small for gradients, nothing at all.
    """
    from peft.helpers import disable_input_dtype_casting

    device, random_state = subject.device, torch.get_rng_state()
    wrapped = _with_adapter(subject, recipe, seed)
    try:
        if subject.dtype == torch.bfloat16:
            _multiply_in_the_inputs_dtype(wrapped)
        with disable_input_dtype_casting(wrapped, active=subject.dtype == torch.bfloat16):
            yield wrapped
    finally:
        wrapped.unload()
        subject.model.to(device).eval().requires_grad_(False)
        torch.set_rng_state(random_state)


def _multiply_in_the_inputs_dtype(wrapped: Any) -> None:
    from peft.tuners.lora import LoraLayer

    for layer in wrapped.modules():
        if isinstance(layer, LoraLayer):
            for factor in (*layer.lora_A.values(), *layer.lora_B.values()):
                factor.forward = partial(_product, factor)


def _product(factor: torch.nn.Linear, given: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(given, factor.weight.to(given.dtype))


def _with_adapter(subject: Subject, recipe: Recipe, seed: int) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    set_seed(seed)
    with quiet():
        wrapped = get_peft_model(
            subject.model,
            LoraConfig(
                r=recipe.rank,
                lora_alpha=recipe.alpha,
                lora_dropout=0.0,
                use_rslora=recipe.rank_stabilised,
                task_type="CAUSAL_LM",
                **adapted_modules(subject, recipe),
            ),
        )
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return wrapped


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def adapted_modules(subject: Subject, recipe: Recipe) -> dict[str, Any]:
    """PEFT's `target_modules`, and `layers_to_transform` where not the whole depth is adapted (PEFT takes no
    `all-linear` together with chosen layers, so the linear modules are named)."""
    names: Any = recipe.target_modules
    if recipe.depth == (0.0, 1.0) and names != "mlp-output":
        return {"target_modules": names}
    first, last = (min(int(share * subject.n_layers), subject.n_layers - (share < 1)) for share in recipe.depth)
    layers = list(range(first, max(last, first + 1)))
    if names in ("all-linear", "mlp-output"):
        linear = {
            name: name.rpartition(".")[2]
            for block in subject.blocks
            for name, module in block.named_modules()
            if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
        }
        names = sorted(set(linear.values()))
        if recipe.target_modules == "mlp-output":
            return _mlp_output(subject, list(linear), layers)
    return {"target_modules": names, "layers_to_transform": layers}


def _mlp_output(subject: Subject, linear: list[str], layers: list[int]) -> dict[str, Any]:
    """The last linear module of a block writes the MLP's output in every decoder that is supported; it is named in
    full, since its short name may be the attention's too (GPT-2's `c_proj`)."""
    last = linear[-1]
    wanted = {id(subject.blocks[layer].get_submodule(last)) for layer in layers}
    return {"target_modules": [name for name, module in subject.model.named_modules() if id(module) in wanted]}
