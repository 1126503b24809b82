for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  if (body.rows.length < 4) continue;
  const units = { KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 };
  const number = text => {
    // of a limit, such as "> 12,000", the number counts
    const plain = text.replace(/^[<>\u2264\u2265~\u2248]\s*/, "").replace(/,/g, "").replace(/^[\u2212\u2013]/, "-");
    const value = parseFloat(plain.replace(/\s/g, "").replace(/^([+-]?)\./, "$10."));
    return value * (units[plain.match(/^[-+.\d]+\s*([KMGT]iB)\b/)?.[1]] ?? 1);
  };
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      // without the interval below a value
      const key = row => (row.cells[column].firstChild?.textContent ?? "").trim();
      const isNumeric = [...body.rows].filter(row => Number.isNaN(number(key(row)))).length * 2 < body.rows.length;
      // numbers start with the largest, text with the first of the alphabet
      const [first, second] = isNumeric ? ["descending", "ascending"] : ["ascending", "descending"];
      const order = head.getAttribute("aria-sort") === first ? second : first;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const compare = (a, b) => isNumeric ? number(key(a)) - number(key(b)) : key(a).localeCompare(key(b));
      const isMissing = row => isNumeric && Number.isNaN(number(key(row)));
      body.append(...[...body.rows].sort((a, b) => isMissing(a) - isMissing(b) ||
        (isMissing(a) ? 0 : compare(a, b) * (order === "descending" ? -1 : 1))));
    };
  });
}
const reading = document.createElement("div");
reading.id = "reading";
reading.setAttribute("role", "status");
document.body.append(reading);
const read = (text, x, y) => {
  reading.textContent = text;
  reading.style.left = `${Math.max(0, Math.min(x + 14, innerWidth - reading.offsetWidth - 8))}px`;
  reading.style.top = `${y + 18 + reading.offsetHeight > innerHeight ? y - reading.offsetHeight - 10 : y + 18}px`;
};
const shown = value => Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(2) :
  String(Number(value.toPrecision(3)));
const along = ([low, high, scale], part) => scale === "log" ? low * (high / low) ** part : low + (high - low) * part;
for (const figure of document.querySelectorAll("svg[data-readings]")) {
  const readings = Object.entries(JSON.parse(figure.dataset.readings)).map(([id, own]) =>
    [figure.querySelector(`[id$="-${id}"]`), own]).filter(([area]) => area);
  const point = event => {
    let text = "";
    for (const [area, own] of readings) {
      const box = area.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
      if (x < 0 || x >= 1 || y < 0 || y >= 1) continue;
      if (own.cells) {
        const row = own.cells[Math.floor(y * own.cells.length)];
        text = row[Math.floor(x * row.length)];
      } else text = `${own.x[3]}: ${shown(along(own.x, x))}\n${own.y[3]}: ${shown(along(own.y, 1 - y))}`;
    }
    // a screen reader does not speak with every move of the pointer
    reading.setAttribute("aria-live", "off");
    read(text, event.clientX, event.clientY);
  };
  figure.addEventListener("pointermove", point);
  figure.addEventListener("pointerdown", point);
  // what a finger has shown stays until the next touch
  figure.addEventListener("pointerleave", event => { if (event.pointerType !== "touch") read("", 0, 0); });
  const maps = readings.filter(([, own]) => own.cells);
  if (maps.length) visitCells(figure, maps);
}
document.addEventListener("pointerdown", event => {
  if (!event.target.closest("svg[data-readings]")) read("", 0, 0);
});

// Moves over the cells of a figure's maps with the arrow keys; to the left and right also from map to map.
function visitCells(figure, maps) {
  const region = figure.parentElement;
  region.setAttribute("role", "application");
  region.setAttribute("aria-roledescription", "heat map");
  region.setAttribute("aria-label", "Values of the cells: move over them with the arrow keys.");
  const here = document.createElementNS(figure.namespaceURI, "rect");
  here.classList.add("here");
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  let map = 0, row = 0, column = 0;
  region.addEventListener("keydown", event => {
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const [right, down] = step;
    const size = k => [maps[k][1].cells.length, maps[k][1].cells[0].length];
    if (here.isConnected) {
      row = Math.max(0, Math.min(row + down, size(map)[0] - 1));
      column += right;
      if (column < 0) column = map ? size(--map)[1] - 1 : 0;
      else if (column >= size(map)[1]) column = map + 1 < maps.length ? (map++, 0) : column - 1;
      row = Math.min(row, size(map)[0] - 1);
    }
    const [area, own] = maps[map], box = area.getBBox(), [rows, columns] = size(map);
    const width = box.width / columns, height = box.height / rows;
    const place = { x: box.x + column * width, y: box.y + row * height, width, height };
    for (const name in place) here.setAttribute(name, place[name]);
    figure.append(here);
    here.scrollIntoView({ block: "nearest", inline: "nearest" });
    const seen = here.getBoundingClientRect();
    reading.setAttribute("aria-live", "polite");
    read(own.cells[row][column], seen.left, seen.bottom - 10);
  });
  region.addEventListener("blur", () => {
    here.remove();
    read("", 0, 0);
  });
}
