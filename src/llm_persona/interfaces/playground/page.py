"""The page: it reads the controls, asks the desk, and shows what comes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from llm_persona.domain.condition import Condition, Steer
from llm_persona.domain.errors import UserError
from llm_persona.domain.traits import list_traits
from llm_persona.interfaces.playground import paint
from llm_persona.interfaces.playground.desk import Desk
from llm_persona.interfaces.playground.recipe import Push, Recipe
from llm_persona.interfaces.playground.shelf import Offer, Shelf
from llm_persona.studies.quick_vector import quick_vector
from llm_persona.studies.side_by_side import Pair, Zero

NO_ADAPTER = "none"
QUESTION = "How should I spend the weekend?"
READERS = ("unsteered model: what was written", "its writer: with what steering adds")
REACH = 0.4
"""Largest dose of a slider where no wider range was measured."""
SPARE = 8
"""Sliders kept ready for vectors that are made on the page."""
CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Slot:
    """The controls of one vector."""

    dose: gr.Slider
    layer: gr.Slider


@dataclass(frozen=True)
class Wanted:
    """The controls' values, understood."""

    recipe: Recipe
    condition: Condition
    offers: tuple[Offer, ...]
    layers: tuple[int, ...]
    """Steering layer of each offer."""
    warning: str


@dataclass(frozen=True)
class Shown:
    """What the answers on the page are, so that they can be coloured anew without asking again."""

    pair: Pair
    offers: tuple[Offer, ...]
    zero: Zero


class Page:
    """Everything on the page, in reading order, and what happens when it is used."""

    def __init__(
        self, shelf: Shelf, desk: Desk, made: Path, dtype: str = "auto", device: str = "auto", most_tokens: int = 256
    ) -> None:
        self.shelf, self.desk, self.made = shelf, desk, made
        self.dtype, self.device, self.most_tokens = dtype, device, most_tokens
        self.running: dict[str, threading.Event] = {}
        """What stops each browser page's answer."""

    # What is on the page

    def build(self) -> gr.Blocks:
        """The page, ready to be served."""
        with gr.Blocks(title="llm-persona playground", analytics_enabled=False, fill_width=True) as blocks:
            gr.HTML('<header class="lp-head"><h1>llm-persona playground</h1><p>One question, two answers: the model '
                    "as it is, and as you set it. Greedy, so that nothing but your settings differs.</p></header>")  # fmt: skip
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
        self.slots: list[Slot] = []
        doses, layers = [], []
        with gr.Group():
            for number in range(len(self.shelf.offers) + SPARE):
                doses.append(gr.Slider(elem_id=f"dose-{number}", **self._dose_of(number)))
        with gr.Accordion("Layers to steer at", open=False):
            for number in range(len(self.shelf.offers) + SPARE):
                layers.append(gr.Slider(elem_id=f"layer-{number}", **self._layer_of(number)))
        self.slots = [Slot(d, la) for d, la in zip(doses, layers, strict=True)]
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
        self.gauge = gr.HTML("", elem_id="gauge")
        with gr.Row(equal_height=True):
            self.left = gr.HTML(self._empty("Base"), elem_id="base", min_height=140)
            self.right = gr.HTML(self._empty("With your settings"), elem_id="shown", min_height=140)
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
                self.command = gr.Code("", language="shell", wrap_lines=True, show_label=False, interactive=False,
                                       elem_id="command", show_line_numbers=False, buttons=["copy"])  # fmt: skip
            with gr.Tab("Copy as Python"):
                self.python = gr.Code("", language="python", wrap_lines=True, show_label=False, interactive=False,
                                      elem_id="python", show_line_numbers=False, buttons=["copy"])  # fmt: skip

    @staticmethod
    def _empty(title: str) -> str:
        return paint.answer(title, None, None, 1.0, "The answer comes here.")

    def _dose_of(self, number: int) -> dict[str, Any]:
        """The properties of dose slider `number`."""
        if number >= len(self.shelf.offers):
            return {"minimum": -REACH, "maximum": REACH, "value": 0.0, "step": 0.01, "visible": False, "label": "dose"}
        offer = self.shelf.offers[number]
        reach = reach_of(offer)
        if offer.usable is None:
            info = "Usable range not measured; text often holds to about 0.2."
        else:
            info = f"Usable: {offer.usable[0]:+g} to {offer.usable[1]:+g} (the marked part of the track)."
        return {"minimum": -reach, "maximum": reach, "value": 0.0, "step": 0.01, "info": info,
                "label": f"{offer.name}: dose", "visible": offer.model == self.shelf.first}  # fmt: skip

    def _layer_of(self, number: int) -> dict[str, Any]:
        """The properties of layer slider `number`."""
        if number >= len(self.shelf.offers):
            return {"minimum": 0, "maximum": 1, "value": 0, "step": 1, "visible": False, "label": "layer"}
        offer = self.shelf.offers[number]
        return {"minimum": 0, "maximum": max(1, offer.vector.n_layers - 1), "value": offer.layer, "step": 1,
                "label": f"{offer.name}: layer", "info": f"Starts at {offer.layer}: {offer.layer_from}.",
                "visible": offer.model == self.shelf.first}  # fmt: skip

    def marks(self) -> str:
        """CSS that marks each slider's usable range on its track."""
        return "\n".join(
            _track(f"#dose-{number}", offer.usable, reach_of(offer))
            for number, offer in enumerate(self.shelf.offers)
            if offer.usable is not None
        )

    # What happens

    def _wire(self, blocks: gr.Blocks) -> None:
        doses, layers = [s.dose for s in self.slots], [s.layer for s in self.slots]
        controls: list[Any] = [self.model, self.adapter, self.chosen, self.system, self.tokens, self.question]
        controls += doses + layers
        colours = [self.colour, self.colour_layer, self.reader]
        preview: dict[str, Any] = {
            "fn": self._preview, "inputs": controls, "outputs": [self.gauge, self.warning, self.command, self.python],
            "show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private",
        }  # fmt: skip
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        for control in controls:
            if control is self.question or control is self.system:
                control.blur(**preview)
            elif control is not self.model:
                control.change(**preview)
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
                          api_visibility="private").then(**preview)  # fmt: skip
        self.chosen.change(self._chosen, [self.model, self.chosen, self.colour], [self.colour, *doses, *layers], **quiet)
        self.make.click(self._make, [self.model, self.trait, self.chosen], [self.making, *shelf], concurrency_limit=1,
                        trigger_mode="once", **quiet).then(**preview)  # fmt: skip

    def wanted(self, values: Sequence[Any]) -> Wanted:
        """Understand the controls' values: model, adapter, vectors, system, tokens, question, doses, layers.

        Raises:
            UserError: something that is not on the shelf.
        """
        model, adapter, chosen, system, tokens, question, *rest = values
        doses, layers = rest[: len(self.slots)], rest[len(self.slots) :]
        if model not in self.shelf.models:
            raise UserError("this model is not on offer here; start the playground with --model")
        if adapter != NO_ADAPTER and adapter not in self.shelf.adapters_of(model):
            raise UserError("this adapter is not on offer for this model")
        offers, at, pushes, steers, beyond = [], [], [], [], []
        for number, offer in enumerate(self.shelf.offers):
            if offer.model != model or offer.name not in (chosen or []):
                continue
            dose = round(float(doses[number] or 0.0), 4)
            layer = min(max(int(layers[number] or 0), 0), offer.vector.n_layers - 1)
            offers.append(offer)
            at.append(layer)
            if dose != 0:
                pushes.append(Push(offer.name, offer.path, layer, dose))
                steers.append(Steer(offer.vector, layer, dose=dose, name=offer.name))
                if offer.usable is not None and not offer.usable[0] <= dose <= offer.usable[1]:
                    ends = f"{offer.usable[0]:+g} to {offer.usable[1]:+g}"
                    beyond.append(f"{offer.name}: dose {dose:+g} is beyond the usable range ({ends}); text may break.")
        given = None if adapter == NO_ADAPTER else str(adapter)
        turn = system if system and system.strip() else None
        parts = ["system turn" if turn else "", f"adapter {Path(given).name}" if given else ""]
        name = " + ".join(p for p in (*parts, *[s.label for s in steers]) if p) or "base"
        recipe = Recipe(model, question or "", tuple(pushes), given, turn, int(tokens), self.dtype, self.device)
        condition = Condition(name, turn, given, tuple(steers))
        return Wanted(recipe, condition, tuple(offers), tuple(at), " ".join(beyond))

    def _preview(self, *values: Any) -> tuple[str, str, str, str]:
        """The gauge, and the thing to copy, for what is set now."""
        try:
            wanted = self.wanted(values)
            recipe = wanted.recipe
            vectors = [o.vector for o in wanted.offers]
            drawn, warning = "", wanted.warning
            if recipe.prompt.strip() and vectors:
                zero = self.desk.zero(recipe.model)
                base, other = self.desk.openings(recipe.model, recipe.prompt, wanted.condition, vectors)
                drawn = draw_gauge(wanted.offers, wanted.layers, base, _unless_base(wanted.condition, other), zero)
            elif not vectors:
                warning = "No vector is chosen. Make one (on the left), or choose one under Vectors."
            return drawn, paint.warning(warning), recipe.command(), recipe.python()
        except UserError as error:
            return "", paint.warning(str(error)), "", ""

    def _ask(self, request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Both answers as they are written."""
        *controls, colour, layer, reader = values
        kept: Any = gr.skip()
        session, stop = str(request.session_hash), threading.Event()
        self.running[session] = stop
        try:
            wanted = self.wanted(controls)
            recipe = wanted.recipe
            zero = self.desk.zero(recipe.model)
            shown = None
            vectors = [o.vector for o in wanted.offers]
            settings = (recipe.model, recipe.prompt, wanted.condition, vectors, recipe.max_new_tokens)
            for pair in self.desk.ask(*settings, stop):
                gauge = kept
                if shown is None and wanted.offers and pair.base.opening is not None:
                    other = None if pair.other is None else pair.other.opening
                    gauge = draw_gauge(wanted.offers, wanted.layers, pair.base.opening, other, zero)
                shown = Shown(pair, wanted.offers, zero)
                yield (*self._painted(shown, colour, layer, reader), gauge, paint.warning(wanted.warning), shown)
        except UserError as error:
            yield kept, kept, kept, kept, paint.warning(str(error)), kept
        finally:
            self.running.pop(session, None)

    def _repaint(self, shown: Shown | None, colour: str | None, layer: float, reader: str) -> tuple[Any, ...]:
        return self._painted(shown, colour, layer, reader) if shown is not None else (gr.skip(), gr.skip(), gr.skip())

    def _halt(self, request: gr.Request) -> None:
        """Stop what this page has asked for; what was written until then is kept and read."""
        stop = self.running.get(str(request.session_hash))
        if stop is not None:
            stop.set()

    def _painted(self, shown: Shown, colour: str | None, layer: float, reader: str) -> tuple[str, str, str]:
        """Both panes and the legend."""
        pair = shown.pair
        number = next((n for n, o in enumerate(shown.offers) if o.name == colour), None)
        answers = [pair.base, pair.other]
        coloured: list[np.ndarray | None] = [None, None]
        place = 0
        if number is not None:
            vectors = [o.vector for o in shown.offers]
            place = min(max(int(layer), 0), vectors[number].n_layers - 1)
            for side, written in enumerate(answers):
                read = None if written is None else written.by_base if reader == READERS[0] else written.by_itself
                if read is not None:
                    coloured[side] = shown.zero.gaps(read, vectors, prompt=False)[:, number, place]
        limit = paint.limit_of([c for c in coloured if c is not None and len(c)])
        right = f"Shown: {pair.condition.name}" if answers[1] is not None else "With your settings"
        note = "" if answers[1] is not None else "Nothing is set: move a slider, choose an adapter or write a system turn."
        panes = (
            paint.answer("Base", answers[0], coloured[0], limit),
            paint.answer(right, answers[1], coloured[1], limit, note),
        )
        if number is None or coloured[0] is None:
            return (*panes, "")
        zero = f"0 is the mean over {shown.zero.n_responses} high and low responses to {shown.zero.n_questions} questions about all traits."
        return (*panes, paint.legend(shown.offers[number].name, place, limit, zero))

    def _colour_layer(self, model: str, colour: str | None) -> Any:
        offer = next((o for o in self.shelf.vectors_of(model) if o.name == colour), None)
        if offer is None:
            return gr.skip()
        return gr.update(value=offer.layer, maximum=max(1, offer.vector.n_layers - 1))

    def _chosen(self, model: str, chosen: list[str] | None, colour: str | None) -> list[Any]:
        """Show the sliders of the chosen vectors; what is put away no longer steers."""
        names = [o.name for o in self.shelf.vectors_of(model) if o.name in (chosen or [])]
        value = colour if colour in names else names[0] if names else None
        found: list[Any] = [gr.update(choices=names, value=value)]
        on = [o.model == model and o.name in names for o in self.shelf.offers]
        on += [False] * (len(self.slots) - len(on))
        return found + [gr.update(visible=v) for v in on] * 2

    def _new_model(self, model: str) -> list[Any]:
        """Load another model and offer what was made on it."""
        warning = ""
        try:
            if model not in self.shelf.models:
                raise UserError("this model is not on offer here")
            self.desk.open(model)
        except UserError as error:
            warning = paint.warning(str(error))
        empty = [self._empty("Base"), self._empty("With your settings")]
        return [*self._offered(model, None), warning, *empty, None]

    def _offered(self, model: str, chosen: list[str] | None) -> list[Any]:
        """Choices for a model: vectors, adapters, colours, sliders."""
        names = [o.name for o in self.shelf.vectors_of(model)]
        taken = [n for n in names if chosen is None or n in chosen]
        found: list[Any] = [
            gr.update(choices=names, value=taken),
            gr.update(choices=[NO_ADAPTER, *self.shelf.adapters_of(model)], value=NO_ADAPTER),
            gr.update(choices=taken, value=taken[0] if taken else None),
        ]
        numbers = range(len(self.slots))
        for properties in (self._dose_of, self._layer_of):
            for number in numbers:
                offer = self.shelf.offers[number] if number < len(self.shelf.offers) else None
                visible = offer is not None and offer.model == model and offer.name in taken
                found.append(gr.update(**{**properties(number), "visible": visible}))
        return found

    def _make(self, model: str, trait: str, chosen: list[str] | None) -> Iterator[list[Any]]:
        """Fit a quick vector on the page and put it on the shelf."""
        still = [gr.skip()] * (3 + 2 * len(self.slots))
        try:
            if trait not in list_traits() or model not in self.shelf.models:
                raise UserError("this trait or model is not on offer here")
            if len(self.shelf.offers) >= len(self.slots):
                raise UserError("no slider is left for another vector; start the playground again")
            yield [paint.warning(f"{trait}: loading the model"), *still]
            for done, total, vector in self.desk.stream(model, lambda subject, _: quick_vector(subject, trait)):
                if vector is None:
                    yield [paint.warning(f"{trait}: {done} of {total} items read"), *still]
                    continue
                self.made.mkdir(parents=True, exist_ok=True)
                path = _free(self.made / f"{trait}.safetensors")
                vector.save(path)
                offer = self.shelf.add(path)
                text = f"{offer.name}: made, in {path}. Layer {offer.layer} reads best; its effect was not measured."
                yield [paint.warning(text), *self._offered(model, [*(chosen or []), offer.name])]
        except UserError as error:
            yield [paint.warning(str(error)), *still]


def reach_of(offer: Offer) -> float:
    """The largest dose of an offer's slider: half as much again as the usable range, so that its end can be seen."""
    return max([REACH, *[round(1.5 * abs(end), 2) for end in offer.usable or ()]])


def draw_gauge(
    offers: Sequence[Offer], layers: Sequence[int], base: np.ndarray, other: np.ndarray | None, zero: Zero
) -> str:
    """The gauge from openings [vectors, layers], each vector read at the layer it steers at."""
    vectors = [o.vector for o in offers]
    left = zero.gaps(base, vectors, prompt=True)
    right = None if other is None else zero.gaps(other, vectors, prompt=True)
    needles = [
        paint.Needle(
            offer.name, layer, float(left[n, layer]), None if right is None else float(right[n, layer]),
            float(zero.spread(offer.vector)[layer]),
        )
        for n, (offer, layer) in enumerate(zip(offers, layers, strict=True))
    ]  # fmt: skip
    note = (
        f"Projection at the last token of the prompt, in pole gaps. 0 is the mean of {zero.n_questions} questions about "
        "all traits read by the unsteered model; the grey band is one standard deviation of theirs to either side. Hollow: base. Filled: with your "
        "settings, what steering adds included."
    )
    return paint.gauge(needles, note)


def _unless_base(condition: Condition, values: np.ndarray) -> np.ndarray | None:
    changes = condition.system is not None or condition.adapter is not None or bool(condition.steers)
    return values if changes else None


def _free(path: Path) -> Path:
    """`path`, or the next name that is not taken."""
    names = [path, *[path.with_stem(f"{path.stem}-{n}") for n in range(2, 100)]]
    return next((p for p in names if not p.exists()), names[-1])


def _track(selector: str, usable: tuple[float, float], reach: float) -> str:
    """A slider's track whose usable part is drawn stronger; ends are where the thumb's middle stands."""
    places = [f"calc(8px + (100% - 16px) * {(end + reach) / (2 * reach):.4f})" for end in usable]
    stops = f"var(--lp-off) {places[0]}, var(--lp-on) {places[0]}, var(--lp-on) {places[1]}, var(--lp-off) {places[1]}"
    rule = f"background: linear-gradient(to right, {stops}) !important;"
    return "\n".join(
        f"{selector} input[type=range]::{part} {{ {rule} }}" for part in ("-webkit-slider-runnable-track", "-moz-range-track")
    )
