for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  if (body.rows.length < 4) continue;
  const number = text => parseFloat(text.replace(/[,\s]/g, "").replace(/^[\u2212\u2013]/, "-").replace(/^([+-]?)\./, "$10."));
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const order = head.ariaSort === "descending" ? "ascending" : "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const key = row => row.cells[column].textContent.trim();
      const isNumeric = [...body.rows].filter(row => Number.isNaN(number(key(row)))).length * 2 < body.rows.length;
      const compare = (a, b) => isNumeric ? number(key(a)) - number(key(b)) : key(b).localeCompare(key(a));
      const isMissing = row => isNumeric && Number.isNaN(number(key(row)));
      body.append(...[...body.rows].sort((a, b) => isMissing(a) - isMissing(b) ||
        (isMissing(a) ? 0 : compare(a, b) * (order === "descending" ? -1 : 1))));
    };
  });
}
const reading = document.createElement("div");
reading.id = "reading";
reading.hidden = true;
document.body.append(reading);
const shown = value => Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(2) :
  String(Number(value.toPrecision(3)));
const along = ([low, high, scale], part) => scale === "log" ? low * (high / low) ** part : low + (high - low) * part;
for (const figure of document.querySelectorAll("svg[data-readings]")) {
  const readings = Object.entries(JSON.parse(figure.dataset.readings)).map(([id, own]) =>
    [figure.querySelector(`[id$="-${id}"]`), own]).filter(([area]) => area);
  figure.onpointermove = event => {
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
    reading.hidden = !text;
    reading.textContent = text;
    reading.style.left = `${Math.min(event.clientX + 14, innerWidth - reading.offsetWidth - 8)}px`;
    reading.style.top = `${event.clientY + 18 + reading.offsetHeight > innerHeight ?
      event.clientY - reading.offsetHeight - 10 : event.clientY + 18}px`;
  };
  figure.onpointerleave = () => { reading.hidden = true; };
}
