// Fills the tables of all samples; a click on a heading sorts by it, and words in the field filter.
"use strict";

const SHOWN = 200;

function makeTable(container) {
  const { columns, rows } = JSON.parse(document.getElementById(container.dataset.source).textContent);
  const table = container.querySelector("table");
  const field = container.querySelector("input");
  const head = table.createTHead().insertRow();
  const body = table.createTBody();
  const haystacks = rows.map((row) => row.join(" ").toLowerCase());
  let sorted = { column: -1, ascending: true };

  columns.forEach(([name, digits], column) => {
    const cell = document.createElement("th");
    cell.textContent = name;
    cell.tabIndex = 0;
    if (digits === null) cell.className = "words";
    const sort = () => {
      sorted = { column, ascending: sorted.column === column ? !sorted.ascending : true };
      show();
    };
    cell.addEventListener("click", sort);
    cell.addEventListener("keydown", (event) => {
      if (event.key === "Enter") sort();
    });
    head.append(cell);
  });

  function compare(first, second) {
    const a = rows[first][sorted.column];
    const b = rows[second][sorted.column];
    if (a === null || b === null) return (a === null) - (b === null); // unknown ones last
    const order = typeof a === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
    return sorted.ascending ? order : -order;
  }

  function show() {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [...rows.keys()].filter((row) => words.every((word) => haystacks[row].includes(word)));
    if (sorted.column >= 0) found.sort(compare);
    [...head.cells].forEach((cell, column) => {
      const arrow = column !== sorted.column ? "" : sorted.ascending ? " ▲" : " ▼";
      cell.textContent = columns[column][0] + arrow;
    });
    body.replaceChildren(...found.slice(0, SHOWN).map(makeRow));
    const rest = found.length > SHOWN ? `, the first ${SHOWN} shown` : "";
    container.querySelector(".count").textContent = `${found.length} of ${rows.length}${rest}`;
  }

  function makeRow(row) {
    const line = document.createElement("tr");
    rows[row].forEach((value, column) => {
      const digits = columns[column][1];
      const cell = line.insertCell();
      cell.textContent = typeof value === "number" ? value.toFixed(digits) : value;
      if (digits === null) cell.className = columns[column][0] === "sentence" ? "words long" : "words";
    });
    return line;
  }

  field.addEventListener("input", show);
  show();
}

document.querySelectorAll(".all-samples").forEach(makeTable);
