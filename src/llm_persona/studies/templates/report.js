"use strict";
(() => {
  const make = (tag, set) => Object.assign(document.createElement(tag), set);
  const said = document.body.appendChild(make("p", { className: "skip" }));
  said.setAttribute("aria-live", "polite");

  // Copy buttons: the clipboard where the browser gives it to a local file, a selection and its command elsewhere.
  const copied = async (pre) => {
    try { await navigator.clipboard.writeText(pre.textContent); return true; } catch { /* the other way */ }
    const range = document.createRange(), selection = getSelection();
    range.selectNodeContents(pre); selection.removeAllRanges(); selection.addRange(range);
    return document.execCommand("copy");
  };
  for (const box of document.querySelectorAll(".code")) {
    const button = box.appendChild(make("button", { type: "button", className: "copy", textContent: "Copy" }));
    button.setAttribute("aria-label", "Copy " + box.dataset.what);
    button.addEventListener("click", async () => {
      const done = await copied(box.querySelector("pre"));
      button.textContent = said.textContent = done ? "Copied" : "Selected: press Ctrl+C";
      setTimeout(() => { button.textContent = "Copy"; }, 1800);
    });
  }

  // What a point or a token says, beside the pointer. The nearest point counts, so that a finger finds it too.
  for (const title of document.querySelectorAll(".pt > title")) {
    title.parentNode.dataset.tip = title.textContent; title.remove();
  }
  const tip = document.body.appendChild(make("div", { id: "tip", hidden: true }));
  tip.setAttribute("aria-hidden", "true");
  let on = null;
  const nearest = (svg, x, y) => {
    let best = null, least = 26;
    for (const point of svg.querySelectorAll(".pt")) {
      const box = point.getBoundingClientRect();
      const far = Math.hypot(x - box.x - box.width / 2, y - box.y - box.height / 2);
      if (far < least) { least = far; best = point; }
    }
    return best;
  };
  const show = (event) => {
    const token = event.target.closest?.(".t[data-p]"), svg = event.target.closest?.("svg.chart");
    const point = svg && nearest(svg, event.clientX, event.clientY);
    if (on) on.classList.remove("on");
    on = point;
    if (point) point.classList.add("on");
    const text = point ? point.dataset.tip : token ? token.dataset.p + " pole gaps" : "";
    tip.hidden = !text; tip.textContent = text;
    if (!text) return;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(event.clientX + 12, innerWidth - box.width - 4)) + "px";
    tip.style.top = Math.max(4, event.clientY - box.height - 12) + "px";
  };
  addEventListener("pointermove", show);
  addEventListener("pointerdown", show);
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
})();
