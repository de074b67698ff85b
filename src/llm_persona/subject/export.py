"""Vectors in the formats of other tools, and steering folded into a plain model folder."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.errors import UserError
from llm_persona.domain.formats import format_of
from llm_persona.domain.store import appearing, write_json
from llm_persona.subject.blocks import block_output, find_blocks, path_of
from llm_persona.subject.load import Subject
from llm_persona.subject.placement import is_quantised, is_spread


def chosen_layers(vector: PersonaVector, layers: Sequence[int] | None) -> list[int]:
    """The given layers, else the recommended one.

    Raises:
        UserError: none is given and none recommended, or one that the vector does not have.
    """
    found = list(layers or [])
    if not found:
        recommended = (vector.meta.get("recommended") or {}).get("balanced")
        if recommended is None:
            raise UserError("the vector keeps no recommended layer; give --layer")
        found = [int(recommended)]
    for layer in found:
        if not 0 <= layer < vector.n_layers:
            raise UserError(f"--layer {layer}: the vector has layers 0 to {vector.n_layers - 1}")
    return found


def to_gguf(vector: PersonaVector, path: Path, layers: Sequence[int], coefficient: float, family: str) -> str:
    """A control vector as llama.cpp reads it, scaled by the coefficient, with the chosen layers alone.

    llama.cpp adds `direction.N` to the output of block N (counted from 0) and applies every layer in the file; it has
    no direction.0, so layer 0 cannot be written. Use it with `--control-vector FILE` at scale 1.

    Raises:
        UserError: layer 0 is among the chosen ones.
    """
    if 0 in layers:
        raise UserError("--layer 0: llama.cpp's control vectors begin at layer 1; choose another layer")
    import gguf

    with appearing(path) as temporary:
        writer = gguf.GGUFWriter(temporary, "controlvector")
        writer.add_string("controlvector.model_hint", family)
        writer.add_uint32("controlvector.layer_count", len(layers))
        for layer in sorted(layers):
            writer.add_tensor(f"direction.{layer}", (coefficient * vector.directions[layer]).astype(np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return f"layers {sorted(layers)} times {coefficient:g}; llama.cpp adds direction.N to the output of block N"


def to_persona_vectors(vector: PersonaVector, path: Path) -> str:
    """The tensor of the persona-vectors code (Chen et al. 2025): [layers + 1, hidden], index i for `hidden_states[i]`.

    Our layer l (the output of block l) is index l + 1 there; index 0, the embeddings, is zero. Their last entry is
    read after the final norm, ours before it. Saved with torch; it loads with `weights_only=True`.
    """
    rows = np.concatenate([np.zeros_like(vector.directions[:1]), vector.directions])
    _save(torch.from_numpy(rows), path)
    return "index l + 1 is our layer l, index 0 (embeddings) is zero; theirs is coefficient * vector[index]"


def to_steering_vectors(vector: PersonaVector, path: Path, layers: Sequence[int]) -> str:
    """The fields of a `steering_vectors.SteeringVector`, for `SteeringVector(**torch.load(path, weights_only=True))`.

    Layers count decoder blocks from 0 there too, and the vector is added to the block's output.
    """
    activations = {int(layer): torch.from_numpy(vector.directions[layer].copy()) for layer in layers}
    _save({"layer_activations": activations, "layer_type": "decoder_block"}, path)
    return "SteeringVector(**torch.load(FILE, weights_only=True)); multiplier is our coefficient"


def to_vllm_lens(vector: PersonaVector, path: Path, layers: Sequence[int], coefficient: float) -> str:
    """The JSON of a vllm-lens `SteeringVector`, for its HTTP API or `SteeringVector.model_validate_json`."""
    rows = np.ascontiguousarray(vector.directions[list(layers)], dtype="<f4")
    tensor = {
        "data": base64.b64encode(rows.tobytes()).decode("ascii"),
        "dtype": "float32",
        "original_dtype": "torch.float32",
        "shape": list(rows.shape),
    }
    write_json(path, {"activations": tensor, "layer_indices": list(map(int, layers)), "scale": float(coefficient)})
    return "vllm_xargs: apply_steering_vectors, or SteeringVector.model_validate_json(FILE); scale is our coefficient"


def _save(value: Any, path: Path) -> None:
    with appearing(path) as temporary:
        torch.save(value, temporary)


LAST_LINEAR = ("down_proj", "dense_4h_to_h", "fc2", "c_proj", "fc_out", "w2", "wo")
"""Names under which architectures keep the layer of a block that writes into the residual stream last."""


def to_checkpoint(subject: Subject, vector: PersonaVector, folder: Path, layer: int, coefficient: float) -> str:
    """A plain model folder with coefficient * v_layer folded into a bias of block `layer`.

    Needs no code of ours and generates what steering at all positions generates. The bias is that of the MLP's last
    linear layer, where the architecture has one or can have one (Llama's `mlp_bias`). A probe compares the block's
    output before and after: where the bias does not reach the residual stream as it is (a norm behind it, experts),
    the export is refused.

    Raises:
        UserError: no such bias in this architecture, a quantised model, or an existing folder.
    """
    vector.check(subject.n_layers, subject.hidden_size, subject.name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out {folder}: exists; choose another folder")
    delta = torch.from_numpy((coefficient * vector.directions[layer]).astype(np.float32))
    model = _with_biases(subject)
    block = find_blocks(model, path_of(subject.model, subject.blocks))[layer]
    linear = _last_linear(model, block, layer)
    probe = torch.tensor([[1, 2, 3]], device=subject.device)
    before = _block_output(model, block, probe)
    with torch.no_grad():
        linear.bias += delta.to(linear.bias.device, linear.bias.dtype)
    moved = (_block_output(model, block, probe) - before).float().cpu()
    slack = (1e-4 if subject.dtype == torch.float32 else 0.05) * float(delta.abs().max() + before.abs().max())
    if not torch.allclose(moved, delta.expand_as(moved), atol=slack):
        raise UserError(
            f"{type(model).__name__}: the MLP's bias does not reach the residual stream as it is, so steering cannot "
            "be folded in; steer with a vector file instead"
        )
    temporary = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        model.save_pretrained(temporary)
        subject.tokenizer.save_pretrained(temporary)
        write_json(temporary / "llm-persona.json", _provenance(subject, vector, layer, coefficient))
        if folder.is_dir():
            folder.rmdir()
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return f"the bias of block {layer}'s MLP adds {coefficient:g} * v_{layer}; load it like any model"


def _provenance(subject: Subject, vector: PersonaVector, layer: int, coefficient: float) -> dict[str, Any]:
    return {
        "format": format_of("checkpoint"),
        "base": subject.identity,
        "vector": vector.digest,
        "trait": vector.meta.get("trait"),
        "layer": layer,
        "coefficient": coefficient,
    }


def _with_biases(subject: Subject) -> Any:
    """A copy of the model whose MLPs have biases: as it is where they have them, rebuilt with `mlp_bias` otherwise."""
    import copy

    config = copy.deepcopy(subject.model.config)
    if is_quantised(config):
        raise UserError(
            f"{subject.name}: is quantised; a bias cannot be folded into it; give the model it was made from"
        )
    if is_spread(subject.model):
        raise UserError(
            f"{subject.name}: is spread over several devices; load it on one (--device cpu) to fold a bias in"
        )
    if getattr(config, "mlp_bias", None) is False:
        config.mlp_bias = True
        made = type(subject.model)(config).to(subject.device, subject.dtype).eval()
        missing, unexpected = made.load_state_dict(subject.model.state_dict(), strict=False)
        if unexpected or any(not name.endswith("bias") for name in missing):
            raise UserError(f"{type(made).__name__}: cannot be rebuilt with biases")
        with torch.no_grad():
            for name in missing:
                made.get_parameter(name).zero_()
        made.tie_weights()
        made.generation_config = copy.deepcopy(subject.model.generation_config)
        return made
    return copy.deepcopy(subject.model)


def _last_linear(model: Any, block: Any, layer: int) -> Any:
    found = [
        module
        for name, module in block.named_modules()
        if name.rpartition(".")[2] in LAST_LINEAR and "attn" not in name and getattr(module, "bias", None) is not None
    ]
    if len(found) != 1:
        why = "has no bias in its MLP" if not found else f"has {len(found)} candidates (experts?)"
        raise UserError(
            f"{type(model).__name__}: block {layer} {why}, so steering cannot be folded into a checkpoint; steer "
            "with a vector file, or export it for another tool"
        )
    return found[0]


@torch.no_grad()
def _block_output(model: Any, block: Any, ids: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    hook: Callable[..., None] = lambda _m, _i, out: seen.append(block_output(out).clone())  # noqa: E731
    handle = block.register_forward_hook(hook)
    try:
        model(input_ids=ids, use_cache=False)
    finally:
        handle.remove()
    return seen[0][0].cpu()
