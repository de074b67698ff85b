"""The same thing as a command and as Python, to copy."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class Push:
    """One vector of a recipe: its file, layer and dose."""

    name: str
    path: str
    layer: int
    dose: float


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the page shows."""

    model: str
    prompt: str
    pushes: tuple[Push, ...] = ()
    adapter: str | None = None
    system: str | None = None
    max_new_tokens: int = 64
    dtype: str = "auto"
    device: str = "auto"

    def command(self) -> str:
        """A line for a POSIX shell; it shows both answers, as the page does."""
        words = ["llm-persona", "steer"]

        def option(name: str, value: object) -> None:
            text = str(value)
            words.extend([f"{name}={text}"] if text.startswith("-") else [name, text])

        option("--model", self.model)
        for name, value in (("--dtype", self.dtype), ("--device", self.device)):
            if value != "auto":
                option(name, value)
        for push in self.pushes:
            option("--vector", push.path)
            option("--layer", push.layer)
            option("--dose", f"{push.dose:g}")
        if self.adapter is not None:
            option("--adapter", self.adapter)
        if self.system is not None:
            option("--system", self.system)
        option("--max-new-tokens", self.max_new_tokens)
        option("--prompt", self.prompt)
        return shlex.join(words)

    def python(self) -> str:
        """A script that prints both answers."""
        places = "".join(
            f', {name}="{value}"' for name, value in (("dtype", self.dtype), ("device", self.device)) if value != "auto"
        )
        parts = ['"shown"']
        if self.system is not None:
            parts.append(f"system={self.system!r}")
        if self.adapter is not None:
            parts.append(f"adapter={self.adapter!r}")
        lines = ["import llm_persona as lp", "", f"subject = lp.load_subject({self.model!r}{places})"]
        lines.append(f"prompt = {self.prompt!r}")
        if self.pushes:
            lines.append("steers = (")
            for p in self.pushes:
                loaded = f"lp.PersonaVector.load({p.path!r})"
                lines.append(f"    lp.Steer({loaded}, layer={p.layer}, dose={p.dose:g}, name={p.name!r}),")
            lines.append(")")
            parts.append("steers=steers")
        answer = f"lp.generate(subject, [prompt], max_new_tokens={self.max_new_tokens})[0].text"
        lines.append(f'print("base:", {answer})')
        if len(parts) > 1:
            lines += [f"with subject.under(lp.Condition({', '.join(parts)})):", f'    print("shown:", {answer})']
        return "\n".join(lines) + "\n"
