"""Tune to a pole, and see it in behaviour and in activations. About two minutes on two cores."""

import sys
import tempfile

import numpy as np

import llm_persona as lp
from llm_persona.training.data import from_items
from llm_persona.training.recipe import PERSONA

limit = int(sys.argv[1]) if len(sys.argv) > 1 else 12
subject = lp.load_subject("smollm2-135m")
items = lp.load_items("openness")
vector = lp.fit(lp.record(subject, lp.labelled(items.split("fit")[:limit])))
layer, test = 16, items.split("test")[:limit]

adapter = tempfile.mkdtemp() + "/openness-high"
lp.finetune(subject, from_items(items.split("fit")[:limit], "high"), adapter, PERSONA)
with lp.adapted(subject, adapter):
    tuned = lp.evaluate(subject, test)
base = lp.evaluate(subject, test)
for name, found in (("base", base.summary), ("tuned", tuned.summary)):
    print(f"{name}: score {found['score']:.0f}% {found['score_ci']}, n {found['n']} (one seed: indicative)")

# The reader's part: the same fixed texts, read by the base and by the tuned model.
texts = lp.labelled(test)
before = lp.record(subject, texts).values[:, layer]
with lp.adapted(subject, adapter):
    after = lp.record(subject, texts).values[:, layer]
unit = vector.directions[layer] / np.linalg.norm(vector.directions[layer])
moved = float(np.mean((after - before) @ unit) / vector.norms[layer])
print(f"the same texts, read by the tuned model: {moved:+.2f} pole gaps at layer {layer}")
