"""One trait: fit a vector, choose a layer, judge it on unseen questions, and steer. About two minutes on two cores."""

import sys

import llm_persona as lp

limit = int(sys.argv[1]) if len(sys.argv) > 1 else 16  # items a split; all of them: 80
subject = lp.load_subject("smollm2-135m")
items = lp.load_items("openness")

vector = lp.fit(lp.record(subject, lp.labelled(items.split("fit")[:limit])))
chosen = lp.recommend(subject, vector, items.split("select")[:limit], layers=1)
quality = lp.assess(lp.record(subject, lp.labelled(items.split("test")[:limit])), vector)

layer = chosen.balanced
found = quality.layers[layer]
print(f"layer {layer}: AUC {found.auc:.3f} {found.auc_ci}, p over all layers {found.p_family:.3f}, band {found.band}")

question = "How should I spend the weekend?"
for dose in (-0.2, 0.0, 0.2):
    if dose:
        with lp.steering(subject, vector, layer=layer, dose=dose):
            [answer] = lp.generate(subject, [question], max_new_tokens=32)
    else:
        [answer] = lp.generate(subject, [question], max_new_tokens=32)
    print(f"{dose:+.1f}  {answer.text}")
