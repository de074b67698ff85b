"""What a command's `--vector`, `--layer`, `--coefficient`, `--dose` and the like say each vector does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_persona.domain.condition import Steer

OWN = ("layer", "coefficient", "dose", "positions", "operator", "floor", "ceiling")
CHOICES = {"positions": ("all", "prompt", "response"), "operator": ("add", "ablate", "cap")}
_OWN = re.compile(rf":({'|'.join(OWN)})=([^:]*)$")


@dataclass(frozen=True)
class VectorSettings:
    """One `--vector`: its file, and its own settings (None: the command's options say)."""

    path: str
    layer: str | None = None
    coefficient: float | None = None
    dose: float | None = None
    positions: Any = None
    operator: Any = None
    floor: float | None = None
    ceiling: float | None = None

    def steers(self) -> list[Steer]:
        """What it does: at one layer, or its increments at a range of layers (`--layer 8-16`).

        Raises:
            UserError: no such file or layer, no strength, or settings that do not fit together.
        """
        from llm_persona.analysis.vectors import PersonaVector, increments
        from llm_persona.domain.condition import Steer
        from llm_persona.domain.errors import UserError

        vector = PersonaVector.load(self.path)
        layers = named_layers(self.layer or "auto", vector, self.path)
        name = str(vector.meta.get("trait") or Path(self.path).stem)
        how: dict[str, Any] = {"name": name, "positions": self.positions, "operator": self.operator}
        how |= {"coefficient": self.coefficient, "dose": self.dose, "floor": self.floor, "ceiling": self.ceiling}
        if self.operator == "add" and self.coefficient is None and self.dose is None:
            recommended = vector.meta.get("recommended") or {}
            if "coefficient" not in recommended:
                raise UserError(f"--vector {self.path}: say how strongly, with --coefficient C or --dose D")
            how["coefficient"] = float(recommended["coefficient"])
        if len(layers) == 1 or self.operator != "add":
            return [Steer(vector, layer, **how) for layer in layers]
        if self.dose is not None:
            raise UserError("--layer A-B adds the increments v_l - v_(l-1): give --coefficient, one for all layers")
        steps = increments(vector, layers[0])
        return [Steer(steps, layer, **how) for layer in layers]


def parse_vector(text: str) -> VectorSettings:
    """`FILE`, or `FILE:layer=12:dose=0.2`: any of layer, coefficient, dose, positions, operator, floor, ceiling.

    Raises:
        UserError: a setting that is given twice, or is no number where one is needed.
    """
    from llm_persona.domain.errors import UserError

    path, own = text, dict[str, str | float]()
    while found := _OWN.search(path):
        name, value = found.groups()
        if name in own:
            raise UserError(f"--vector {text}: gives {name} twice")
        if not value:
            raise UserError(f"--vector {text}: {name} is empty; write {name}=VALUE or leave it out")
        try:
            own[name] = value if name == "layer" or name in CHOICES else float(value)
        except ValueError as error:
            raise UserError(f"--vector {text}: {name} {value!r} is not a number") from error
        if value not in CHOICES.get(name, (value,)):
            raise UserError(f"--vector {text}: {name} {value!r}: choose one of {', '.join(CHOICES[name])}")
        path = path[: found.start()]
    return VectorSettings(path, **own)  # type: ignore[arg-type]


def settle(
    vectors: Sequence[str],
    layers: Sequence[str],
    strengths: tuple[Sequence[float], Sequence[float]],
    positions: Any,
    operator: Any,
    bounds: tuple[float | None, float | None],
) -> list[VectorSettings]:
    """Every vector's settings. What a vector does not say itself comes from the command's options: layers and
    strengths (coefficients, doses) in the order of the vectors that need one, the others for all.

    Raises:
        UserError: options that do not fit together.
    """
    from llm_persona.domain.errors import UserError

    coefficients, doses = strengths
    parsed = [parse_vector(text) for text in vectors]
    if (coefficients or doses or layers) and not vectors:
        raise UserError("--layer, --coefficient and --dose belong to a --vector; add --vector FILE")
    moves = operator != "add" or positions != "all" or any(bound is not None for bound in bounds)
    if moves and not vectors:
        raise UserError("--operator, --positions, --floor and --ceiling belong to a --vector; add --vector FILE")
    if coefficients and doses:
        raise UserError("give --coefficient or --dose, or each vector its own: --vector FILE:dose=0.2")
    without = sum(v.layer is None for v in parsed)
    if len(layers) not in (0, without):
        raise UserError(f"{without} --vector, {len(layers)} --layer: give each vector its layer")
    kind, amounts = ("coefficient", list(coefficients)) if coefficients else ("dose", list(doses))
    places = list(layers)
    found, bounded = [], False
    for one in parsed:
        settled = replace(
            one,
            layer=one.layer or (places.pop(0) if places else None),
            positions=one.positions or positions,
            operator=one.operator or operator,
        )
        if one.floor is None and one.ceiling is None and (one.operator is None or settled.operator == "cap"):
            settled, bounded = replace(settled, floor=bounds[0], ceiling=bounds[1]), True
        if settled.operator == "add" and settled.coefficient is None and settled.dose is None and amounts:
            settled = replace(settled, **{kind: amounts.pop(0)})  # type: ignore[arg-type]
        found.append(settled)
    if amounts:
        raise UserError(
            f"--{kind} {amounts[0]:g}: there is no --vector left that takes it (of {len(parsed)}); leave it out"
        )
    if not bounded:
        _refuse_bounds(bounds, caps=any(one.operator == "cap" for one in found))
    return found


def _refuse_bounds(bounds: tuple[float | None, float | None], caps: bool) -> None:
    """Refuse a command's bounds that no vector has taken: dropped, they would seem to have had no effect."""
    from llm_persona.domain.errors import UserError

    for name, bound in zip(("floor", "ceiling"), bounds, strict=True):
        if bound is not None and caps:
            raise UserError(f"--{name} {bound:g}: every --vector that caps has bounds of its own; leave it out")
        if bound is not None:
            raise UserError(
                f"--{name} {bound:g}: no --vector caps; write the one that should as "
                f"FILE:operator=cap:{name}={bound:g}, or leave it out"
            )


def named_layers(text: str, vector: Any, path: str) -> list[int]:
    """Layers by `--layer`: a number, a range A-B, or auto.

    Raises:
        UserError: none of these, or auto where the vector's file recommends none.
    """
    from llm_persona.domain.errors import UserError

    if text == "auto":
        recommended = vector.meta.get("recommended") or {}
        if "balanced" not in recommended:
            raise UserError(f"--vector {path}: keeps no recommended layer; give --layer")
        return [int(recommended["balanced"])]
    first, dash, last = text.partition("-")
    try:
        found = list(range(int(first), int(last) + 1)) if dash and first else [int(text)]
    except ValueError as error:
        raise UserError(f"--layer {text}: not a number; give a layer, a range A-B, or auto") from error
    if not found:
        raise UserError(f"--layer {text}: the range is empty; write the lower layer first")
    return found
