"use strict";
for (const box of document.querySelectorAll(".tokens")) {
  const tokens = [...box.querySelectorAll(".t")], said = box.parentElement.querySelector("output");
  const show = (token) => { said.textContent = token.dataset.say; };
  box.addEventListener("focusin", (event) => { if (event.target.classList.contains("t")) show(event.target); });
  box.addEventListener("mouseover", (event) => { if (event.target.classList.contains("t")) show(event.target); });
  box.addEventListener("click", (event) => { if (event.target.classList.contains("t")) event.target.focus(); });
  box.addEventListener("keydown", (event) => {
    const at = tokens.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tokens.length - 1 }[event.key];
    if (at < 0 || to === undefined || !tokens[to]) return;
    event.preventDefault();
    tokens[at].tabIndex = -1; tokens[to].tabIndex = 0; tokens[to].focus();
  });
}
