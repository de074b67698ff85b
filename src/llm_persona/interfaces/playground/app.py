"""The page behind its door, as an ASGI application."""

from __future__ import annotations

import os
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # (before gradio is imported: it reports at import and at start)
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
from fastapi import FastAPI

from llm_persona.interfaces.playground.door import Door
from llm_persona.interfaces.playground.page import CSS, Page
from llm_persona.interfaces.playground.sliders import marks
from llm_persona.interfaces.serve.guard import Guard

LARGEST = 1 << 20
"""Bytes of a request."""
WAITING = 16
"""Requests in line."""
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "DejaVu Sans Mono", "monospace")


def make_app(page: Page, token: str | None = None, hosts: tuple[str, ...] = ()) -> Any:
    """The playground's application. `token`: asked for, if given. `hosts`: the names it answers to; all, if empty.

    Nothing is fetched from elsewhere: system fonts, no analytics, no share link, and a content policy that has the
    browser refuse any other origin.
    """
    theme = gr.themes.Base(primary_hue="zinc", neutral_hue="zinc", font=list(FONTS), font_mono=list(MONO)).set(
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_200",
    )
    blocks = page.build()
    blocks.queue(max_size=WAITING, default_concurrency_limit=2)
    inner = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None), blocks, path="", theme=theme,
        css=f"{CSS}\n{marks(page.shelf.offers)}", footer_links=[], ssr_mode=False, enable_monitoring=False, pwa=False,
        mcp_server=False, show_error=False, max_file_size=1, run_history=False,
    )  # fmt: skip
    return Door(Guard(inner, None, LARGEST, hosts), token)
