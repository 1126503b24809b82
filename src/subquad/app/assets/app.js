// Values of charts and heat maps by mouse and by keyboard; maps are visited with the arrow keys. What was opened in a view
// stays open when the view changes.
(() => {
  let float = null;
  const show = (text, x, y) => {
    if (!float) {
      float = document.createElement("div");
      float.id = "sq-float";
      float.setAttribute("aria-hidden", "true");
      document.body.append(float);
    }
    float.textContent = text;
    float.hidden = false;
    const box = float.getBoundingClientRect();
    float.style.left = Math.max(4, Math.min(x + 14, innerWidth - box.width - 8)) + "px";
    float.style.top = (y + 18 + box.height > innerHeight ? y - box.height - 10 : y + 18) + "px";
  };
  const hide = () => { if (float) float.hidden = true; };
  let pointer = "";
  const pick = (cell) => {
    const map = cell.closest(".sq-map");
    map.querySelectorAll(".sq-here").forEach((other) => other.classList.remove("sq-here"));
    cell.classList.add("sq-here");
    map.querySelector(".sq-tip").textContent = cell.dataset.tip;
  };
  document.addEventListener("mousemove", (event) => {
    // after scrolling, browsers report a mouse that did not move; it must not take over from the arrow keys
    const place = `${event.screenX},${event.screenY}`;
    if (place === pointer) return;
    pointer = place;
    const cell = event.target.closest?.("[data-tip]");
    if (!cell) return hide();
    show(cell.dataset.tip, event.clientX, event.clientY);
    if (cell.closest(".sq-map")) pick(cell);
  });
  document.addEventListener("scroll", hide, true);
  const opened = new Set();
  const name = (details) => `${details.closest("[id]")?.id}/${details.dataset.name}`;
  document.addEventListener("click", (event) => {
    const cell = event.target.closest?.(".sq-map [data-tip]");
    if (cell) pick(cell);
    const details = event.target.closest?.("summary")?.closest("details[data-name]");
    // before the browser opens or closes it
    if (details) opened[details.open ? "delete" : "add"](name(details));
  });
  new MutationObserver(() => {
    for (const details of document.querySelectorAll("details[data-name]:not([open])"))
      if (opened.has(name(details))) details.open = true;
  }).observe(document.documentElement, { childList: true, subtree: true, attributeFilter: ["open", "data-name"] });
  document.addEventListener("keydown", (event) => {
    const map = event.target.closest?.(".sq-map [data-columns]");
    const columns = map && Number(map.dataset.columns);
    const step = map && { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (!step) return;
    event.preventDefault();
    // the text below the map is that of the cell, and the pointer's would differ and hide cells
    hide();
    const cells = [...map.querySelectorAll("rect[data-tip]")];
    const at = cells.findIndex((cell) => cell.classList.contains("sq-here"));
    const next = cells[at < 0 ? 0 : at + step];
    if (!next) return;
    pick(next);
    next.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
})();
