"""The only script of a report: it pages and filters samples, and says a token's value when touched.

It reads nothing but the page's own elements; without it all samples stand there one after another.
"""

from __future__ import annotations

SCRIPT = """
for (const box of document.querySelectorAll(".browser")) {
  const bar = box.querySelector(".bar"), items = [...box.querySelectorAll(".item")];
  const size = Number(box.dataset.size), filters = [...bar.querySelectorAll("select")];
  const [back, on] = bar.querySelectorAll("button"), told = bar.querySelector("output");
  let first = 0;
  const show = () => {
    const wanted = filters.map(one => one.value).filter(value => value);
    const fits = item => wanted.every(one => item.dataset.is.split(" ").includes(one));
    const found = items.filter(fits);
    first = Math.max(0, Math.min(first, size * (Math.ceil(found.length / size) - 1)));
    const shown = new Set(found.slice(first, first + size));
    for (const item of items) item.hidden = !shown.has(item);
    back.disabled = first === 0;
    on.disabled = first + size >= found.length;
    told.textContent = found.length
      ? `${first + 1}–${Math.min(first + size, found.length)} of ${found.length}` : "none";
  };
  const turn = by => { first += by; show(); box.scrollIntoView(); };
  back.addEventListener("click", () => turn(-size));
  on.addEventListener("click", () => turn(size));
  for (const one of filters) one.addEventListener("change", () => { first = 0; show(); });
  box.addEventListener("click", event => {
    const token = event.target.closest("i[title]"), side = token && token.closest(".side");
    if (side) side.querySelector("output").textContent = `“${token.textContent}” ${token.title}`;
  });
  bar.hidden = false;
  show();
}
"""
