"""The documentation says what the program does: its quick blocks run, and everything in it is run somewhere."""

from __future__ import annotations

import json
from importlib import resources

import jsonschema
import pytest
from doc_blocks import LANGUAGES, NOT_RUN, blocks, page_folder, pages, run_block

from llm_persona.interfaces.cli.main import COMMANDS

QUICK = [page for page in pages() if any(b.how == "quick" for b in blocks(page))]
SHOWN = ("", "text", "yaml")
"""Languages of blocks that are no command."""


@pytest.mark.parametrize("page", QUICK, ids=lambda page: page.stem)
def test_the_quick_blocks_of_a_page_run(page, tmp_path):
    names: dict = {}
    with page_folder(tmp_path):
        for block in blocks(page):
            if block.how == "quick":
                run_block(block, names)


def test_every_block_says_how_it_is_run():
    for block in (b for page in pages() for b in blocks(page)):
        assert block.language in (*LANGUAGES, *SHOWN), block.where
        if block.language in LANGUAGES:
            assert block.how in ("", "quick") or len(block.how.removeprefix(NOT_RUN).split()) > 1, block.where


def test_every_command_is_in_a_block_that_is_run_or_says_why_not():
    text = "\n".join(b.text for page in pages() for b in blocks(page) if b.language == "sh")
    assert [name for name in COMMANDS if f"llm-persona {name}" not in text] == []


def test_every_page_is_in_the_table_of_contents():
    site = pages()[0].parent / "docs"
    listed = (site / "index.md").read_text(encoding="utf-8").split()
    missing = [p for p in pages()[1:] if str(p.relative_to(site).with_suffix("")) not in (*listed, "index")]
    assert missing == []


def test_the_schemas_are_schemas_and_refuse_what_the_contract_does_not_allow():
    folder = resources.files("llm_persona.domain") / "data" / "schemas"
    names = sorted(f.name.removesuffix(".schema.json") for f in folder.iterdir())
    assert names == ["audit", "evaluate", "extract", "prevent", "results", "screen", "show", "steer"]
    for name in names:
        schema = json.loads((folder / f"{name}.schema.json").read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator.check_schema(schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({}, schema)
