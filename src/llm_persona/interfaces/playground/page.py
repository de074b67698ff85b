"""The page: it reads the controls, asks the desk, and shows what comes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from llm_persona.domain.errors import UserError
from llm_persona.domain.traits import list_traits
from llm_persona.interfaces.playground import paint
from llm_persona.interfaces.playground.desk import Desk
from llm_persona.interfaces.playground.settings import NO_ADAPTER, Settings, understood
from llm_persona.interfaces.playground.shelf import Offer, Shelf
from llm_persona.interfaces.playground.sliders import dose_slider, layer_slider
from llm_persona.interfaces.playground.view import READERS, Shown, changes, gauge, panes, waiting
from llm_persona.studies.quick_vector import quick_vector

QUESTION = "How should I spend the weekend?"
SUBTITLE = "One question, two answers: the model as it is, and as you set it. Greedy: only your settings differ."
SPARE = 8
"""Sliders kept ready for vectors that are made on the page."""
CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


class Page:
    """Everything on the page, in reading order, and what happens when it is used."""

    def __init__(
        self, shelf: Shelf, desk: Desk, made: Path, dtype: str = "auto", device: str = "auto", most_tokens: int = 256
    ) -> None:
        self.shelf, self.desk, self.made = shelf, desk, made
        self.dtype, self.device, self.most_tokens = dtype, device, most_tokens
        self.doses: list[gr.Slider] = []
        self.layers: list[gr.Slider] = []
        self.running: dict[str, threading.Event] = {}
        """What stops each browser page's answer."""

    # What is on the page

    def build(self) -> gr.Blocks:
        """The page, ready to be served."""
        with gr.Blocks(title="llm-persona playground", analytics_enabled=False, fill_width=True) as blocks:
            gr.HTML(f'<header class="lp-head"><h1>llm-persona playground</h1><p>{SUBTITLE}</p></header>')
            with gr.Row(equal_height=True):
                self.question = gr.Textbox(QUESTION, label="Question", lines=2, max_lines=8, scale=5, min_width=260,
                                           elem_id="question", max_length=20_000)  # fmt: skip
                with gr.Column(scale=1, min_width=120):
                    self.ask = gr.Button("Ask", variant="primary", elem_id="ask")
                    self.stop = gr.Button("Stop", elem_id="stop")
            with gr.Row():
                with gr.Column(scale=4, min_width=300):
                    self._controls()
                with gr.Column(scale=7, min_width=300):
                    self._results()
            self.shown = gr.State(None)
            self._wire(blocks)
        return blocks

    def _controls(self) -> None:
        first, offers = self.shelf.first, self.shelf.vectors_of(self.shelf.first)
        self.model = gr.Dropdown(self.shelf.models, value=first, label="Model", elem_id="model")
        self.adapter = gr.Dropdown([NO_ADAPTER, *self.shelf.adapters_of(first)], value=NO_ADAPTER, label="Adapter",
                                   elem_id="adapter")  # fmt: skip
        self.chosen = gr.Dropdown([o.name for o in offers], value=[o.name for o in offers], multiselect=True,
                                  label="Vectors", elem_id="vectors")  # fmt: skip
        sliders = self._sliders(first, [o.name for o in offers])
        half = len(sliders) // 2
        with gr.Group():
            self.doses = [gr.Slider(elem_id=f"dose-{n}", **s) for n, s in enumerate(sliders[:half])]
        with gr.Accordion("Layers to steer at", open=False):
            self.layers = [gr.Slider(elem_id=f"layer-{n}", **s) for n, s in enumerate(sliders[half:])]
        with gr.Accordion("System turn, length", open=False):
            self.system = gr.Textbox("", label="System turn of the right-hand answer", lines=2, elem_id="system",
                                     info="Empty: the model's own.", max_length=20_000)  # fmt: skip
            self.tokens = gr.Slider(8, self.most_tokens, value=min(64, self.most_tokens), step=8,
                                    label="Longest answer, in tokens", elem_id="tokens")  # fmt: skip
        with gr.Accordion("Make a vector", open=not offers):
            gr.Markdown(
                "A quick one from a few items, its layer chosen by reading alone. One with its evidence: "
                "`llm-persona vectors extract --trait openness --out openness.safetensors`; a whole study: "
                "`llm-persona run`. Then start the playground with them."
            )
            self.trait = gr.Dropdown(list_traits(), value=list_traits()[0], label="Trait", elem_id="trait")
            self.make = gr.Button("Make it", elem_id="make")
            self.making = gr.HTML("", elem_id="making")

    def _results(self) -> None:
        offers = self.shelf.vectors_of(self.shelf.first)
        self.warning = gr.HTML("", elem_id="warning")
        self.gauge = gr.HTML(paint.gauge_waiting(), elem_id="gauge")
        with gr.Row(equal_height=True):
            self.left = gr.HTML(waiting()[0], elem_id="base", min_height=140, min_width=260)
            self.right = gr.HTML(waiting()[1], elem_id="shown", min_height=140, min_width=260)
        with gr.Row(equal_height=True):
            self.colour = gr.Dropdown([o.name for o in offers], value=offers[0].name if offers else None,
                                      label="Colour tokens by", elem_id="colour", min_width=150)  # fmt: skip
            self.colour_layer = gr.Slider(0, max(1, offers[0].vector.n_layers - 1) if offers else 1, step=1,
                                          value=offers[0].layer if offers else 0, label="read at layer", min_width=150,
                                          elem_id="colour-layer")  # fmt: skip
            self.reader = gr.Radio(list(READERS), value=READERS[0], label="by the", elem_id="reader", min_width=200)
        self.legend = gr.HTML("", elem_id="legend")
        with gr.Tabs():
            with gr.Tab("Copy as command"):
                self.command = gr.Code("", language=None, wrap_lines=True, show_label=False, interactive=False,
                                       elem_id="command", show_line_numbers=False, buttons=["copy"])  # fmt: skip
            with gr.Tab("Copy as Python"):
                self.python = gr.Code("", language=None, wrap_lines=True, show_label=False, interactive=False,
                                      elem_id="python", show_line_numbers=False, buttons=["copy"])  # fmt: skip

    def _sliders(self, model: str, chosen: Sequence[str]) -> list[dict[str, Any]]:
        """Properties of every dose slider, then of every layer slider."""
        spare = len(self.doses) - len(self.shelf.offers) if self.doses else SPARE
        offers: list[Offer | None] = [*self.shelf.offers, *[None] * spare]
        on = [o is not None and o.model == model and o.name in chosen for o in offers]
        return [kind(o, v) for kind in (dose_slider, layer_slider) for o, v in zip(offers, on, strict=True)]

    # What happens

    def _wire(self, blocks: gr.Blocks) -> None:
        doses, layers = self.doses, self.layers
        controls: list[Any] = [self.model, self.adapter, self.chosen, self.system, self.tokens, self.question]
        controls += doses + layers
        colours = [self.colour, self.colour_layer, self.reader]
        preview: dict[str, Any] = {
            "fn": self._preview, "inputs": controls, "outputs": [self.gauge, self.warning],
            "show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private",
        }  # fmt: skip
        copies: dict[str, Any] = {
            "fn": self._copies, "inputs": controls, "outputs": [self.command, self.python], "queue": False,
            "show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private",
        }  # fmt: skip
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        for control in controls:
            if control is self.question or control is self.system:
                control.blur(**preview)
                control.change(**copies)
            elif control is not self.model:
                control.change(**preview)
                control.change(**copies)
        blocks.load(**copies)
        blocks.load(**preview)
        written = [self.left, self.right, self.legend, self.gauge, self.warning, self.shown]
        gr.on(
            [self.ask.click, self.question.submit], self._ask, [*controls, *colours], written,
            concurrency_limit=1, trigger_mode="once", **quiet,
        ).then(**preview)  # fmt: skip
        self.stop.click(self._halt, None, None, queue=False, **quiet)
        blocks.unload(self._halt)
        repaint = (self._repaint, [self.shown, *colours], [self.left, self.right, self.legend])
        self.colour.change(self._colour_layer, [self.model, self.colour], self.colour_layer, **quiet)
        for control in (self.colour, self.colour_layer, self.reader):
            control.change(*repaint, trigger_mode="always_last", **quiet)
        shelf = [self.chosen, self.adapter, self.colour, *doses, *layers]
        self.model.change(self._new_model, self.model, [*shelf, self.warning, self.left, self.right, self.shown],
                          api_visibility="private").then(**copies).then(**preview)  # fmt: skip
        self.chosen.change(
            self._chosen, [self.model, self.chosen, self.colour], [self.colour, *doses, *layers], **quiet
        )
        self.make.click(self._make, [self.model, self.trait, self.chosen], [self.making, *shelf], concurrency_limit=1,
                        trigger_mode="once", **quiet).then(**copies).then(**preview)  # fmt: skip

    def settings(self, values: Sequence[Any]) -> Settings:
        """The controls' values, understood: model, adapter, vectors, system, tokens, question, doses, layers."""
        model, adapter, chosen, system, tokens, question = values[:6]
        doses, layers = values[6 : 6 + len(self.doses)], values[6 + len(self.doses) :]
        return understood(
            self.shelf, model, adapter, chosen, system, tokens, question, doses, layers, self.dtype, self.device
        )

    def _copies(self, *values: Any) -> tuple[str, str]:
        """What is set now, as a command and as Python."""
        try:
            recipe = self.settings(values).recipe
        except UserError:
            return "", ""  # (the preview says why)
        return recipe.command(), recipe.python()

    def _preview(self, *values: Any) -> tuple[str, str]:
        """The gauge for what is set now."""
        try:
            settings = self.settings(values)
            recipe = settings.recipe
            drawn, warning = "", settings.warning
            if recipe.prompt.strip() and settings.offers:
                zero = self.desk.zero(recipe.model)
                base, other = self.desk.openings(recipe.model, recipe.prompt, settings.condition, settings.vectors)
                drawn = gauge(settings, base, other if changes(settings) else None, zero)
            elif not settings.offers:
                warning = "No vector is chosen. Make one (on the left), or choose one under Vectors."
            return drawn, paint.warning(warning)
        except UserError as error:
            return "", paint.warning(str(error))

    def _ask(self, request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Both answers as they are written."""
        *controls, colour, layer, reader = values
        kept: Any = gr.skip()
        session, stop = str(request.session_hash), threading.Event()
        self.running[session] = stop
        try:
            settings = self.settings(controls)
            recipe, vectors = settings.recipe, settings.vectors
            zero = self.desk.zero(recipe.model)
            drawn = kept
            for pair in self.desk.ask(
                recipe.model, recipe.prompt, settings.condition, vectors, recipe.max_new_tokens, stop
            ):
                if drawn is kept and pair.base.opening is not None:
                    other = None if pair.other is None else pair.other.opening
                    drawn = gauge(settings, pair.base.opening, other, zero)
                shown = Shown(pair, settings.offers, zero)
                yield (*panes(shown, colour, layer, reader), drawn, paint.warning(settings.warning), shown)
        except UserError as error:
            yield kept, kept, kept, kept, paint.warning(str(error)), kept
        finally:
            self.running.pop(session, None)

    def _repaint(self, shown: Shown | None, colour: str | None, layer: float, reader: str) -> tuple[Any, ...]:
        return panes(shown, colour, layer, reader) if shown is not None else (gr.skip(), gr.skip(), gr.skip())

    def _halt(self, request: gr.Request) -> None:
        """Stop what this page has asked for; what was written until then is kept and read."""
        stop = self.running.get(str(request.session_hash))
        if stop is not None:
            stop.set()

    def _colour_layer(self, model: str, colour: str | None) -> Any:
        offer = next((o for o in self.shelf.vectors_of(model) if o.name == colour), None)
        if offer is None:
            return gr.skip()
        return gr.update(value=offer.layer, maximum=max(1, offer.vector.n_layers - 1))

    def _chosen(self, model: str, chosen: list[str] | None, colour: str | None) -> list[Any]:
        """Show the sliders of the chosen vectors; what is put away no longer steers."""
        names = [o.name for o in self.shelf.vectors_of(model) if o.name in (chosen or [])]
        value = colour if colour in names else names[0] if names else None
        sliders = self._sliders(model, names)
        return [gr.update(choices=names, value=value), *[gr.update(visible=s["visible"]) for s in sliders]]

    def _new_model(self, model: str) -> list[Any]:
        """Load another model and offer what was made on it."""
        warning = ""
        try:
            if model not in self.shelf.models:
                raise UserError("this model is not on offer here")
            self.desk.open(model)
        except UserError as error:
            warning = paint.warning(str(error))
        return [*self._offered(model, None), warning, *waiting(), None]

    def _offered(self, model: str, chosen: list[str] | None) -> list[Any]:
        """Choices for a model: vectors, adapters, colours, sliders."""
        names = [o.name for o in self.shelf.vectors_of(model)]
        taken = [n for n in names if chosen is None or n in chosen]
        found: list[Any] = [
            gr.update(choices=names, value=taken),
            gr.update(choices=[NO_ADAPTER, *self.shelf.adapters_of(model)], value=NO_ADAPTER),
            gr.update(choices=taken, value=taken[0] if taken else None),
        ]
        return [*found, *[gr.update(**s) for s in self._sliders(model, taken)]]

    def _make(self, model: str, trait: str, chosen: list[str] | None) -> Iterator[list[Any]]:
        """Fit a quick vector on the page and put it on the shelf."""
        still = [gr.skip()] * (3 + 2 * len(self.doses))
        try:
            if trait not in list_traits() or model not in self.shelf.models:
                raise UserError("this trait or model is not on offer here")
            if len(self.shelf.offers) >= len(self.doses):
                raise UserError("no slider is left for another vector; start the playground again")
            yield [paint.warning(f"{trait}: loading the model"), *still]
            for done, total, vector in self.desk.stream(model, lambda subject, _: quick_vector(subject, trait)):
                if vector is None:
                    yield [paint.warning(f"{trait}: {done} of {total} items read"), *still]
                    continue
                self.made.mkdir(parents=True, exist_ok=True)
                path = _free(self.made / f"{trait}.safetensors")
                vector.save(path)
                offer = self.shelf.add(path, model=model)
                text = f"{offer.name}: made, in {path}. Layer {offer.layer} reads best; its effect was not measured."
                yield [paint.warning(text), *self._offered(model, [*(chosen or []), offer.name])]
        except UserError as error:
            yield [paint.warning(str(error)), *still]


def _free(path: Path) -> Path:
    """`path`, or the next name that is not taken."""
    names = [path, *[path.with_stem(f"{path.stem}-{n}") for n in range(2, 100)]]
    return next((p for p in names if not p.exists()), names[-1])
