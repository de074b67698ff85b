"""Two vectors at once: is the effect of both the sum of the effects? About two minutes on two cores.

Point estimates on few items, the layer fixed by hand; `run --preset full` has the interval of the excess.
"""

import sys
from contextlib import ExitStack

import llm_persona as lp

limit = int(sys.argv[1]) if len(sys.argv) > 1 else 12
layer, dose = 16, 0.1
subject = lp.load_subject("smollm2-135m")
traits = ("openness", "extraversion")
vectors = {t: lp.fit(lp.record(subject, lp.labelled(lp.load_items(t).split("fit")[:limit]))) for t in traits}


def preference(measured: str, steered: tuple[str, ...]) -> float:
    """Mean probability of the high options of a trait's unseen items, with these vectors added at one layer."""
    with ExitStack() as stack:
        for trait in steered:
            stack.enter_context(lp.steering(subject, vectors[trait], layer=layer, dose=dose))
        return lp.evaluate(subject, lp.load_items(measured).split("test")[:limit]).summary["preference"]


for measured in traits:
    base = preference(measured, ())
    first, second = (preference(measured, (t,)) - base for t in traits)
    both = preference(measured, traits) - base
    print(
        f"{measured}: {traits[0]} {first:+.3f}, {traits[1]} {second:+.3f}, both {both:+.3f}, sum {first + second:+.3f}"
    )
