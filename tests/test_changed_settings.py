"""A finished run that is asked for with other settings says which, before its results are replaced."""

from __future__ import annotations

import warnings

import pytest

from llm_persona.domain.config import read_config
from llm_persona.domain.errors import Replaced
from llm_persona.studies.stages import Silent
from llm_persona.studies.study import run_study


class Enough(Exception):
    """Ends a study at its first stage."""


class Stopping(Silent):
    """A reporter that has seen enough."""

    def end(self, stage, seconds, reused):
        raise Enough


def test_the_settings_that_changed_are_named_before_anything_is_made(tiny_run, tmp_path):
    folder, _ = tiny_run.copied(tmp_path)
    changed = read_config(folder / "study.yaml").model_copy(update={"seed": 7})
    said = r"of other settings \(seed\); what depends on them is made anew"
    with pytest.warns(Replaced, match=said), pytest.raises(Enough):
        run_study(changed, folder, Stopping())
    assert not (folder / "results.json").exists()


def test_the_same_settings_and_an_unfinished_run_say_nothing(tiny_run, tmp_path):
    folder, _ = tiny_run.copied(tmp_path)
    config = read_config(folder / "study.yaml")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Replaced)
        with pytest.raises(Enough):
            run_study(config, folder, Stopping())
        (folder / "results.json").unlink()
        with pytest.raises(Enough):
            run_study(config.model_copy(update={"seed": 7}), folder, Stopping())
