// Tables that sort by a click on a column's head, and that a word filters.
"use strict";
(function () {
  function key(row, column) {
    const cell = row.cells[column];
    const value = cell.dataset.value;
    return value === undefined ? cell.textContent.trim() : Number(value);
  }

  function compare(a, b) {
    const missing = [a, b].map((value) => value === "" || Number.isNaN(value));
    if (missing[0] || missing[1]) return {order: missing[0] - missing[1], fixed: true};
    if (typeof a === "number" && typeof b === "number") return {order: a - b};
    return {order: String(a).localeCompare(String(b), "en", {numeric: true})};
  }

  function sort(table, column) {
    const head = table.tHead.rows[0].cells[column];
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({row, key: key(row, column)}));
    rows.sort((one, two) => {
      const {order, fixed} = compare(one.key, two.key); // what is missing stays at the end either way
      return fixed ? order : sign * order;
    });
    body.append(...rows.map((entry) => entry.row));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      cell.querySelector("button").addEventListener("click", () => sort(table, column));
    });
  }

  for (const field of document.querySelectorAll("input[data-filters]")) {
    const table = document.getElementById(field.dataset.filters);
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of table.tBodies[0].rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
    });
  }
})();
