"use strict";
// Tables sort by the buttons in their heads and filter by the field above them; both work with the keyboard alone.
for (const table of document.querySelectorAll("table.lively")) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const count = document.getElementById(table.id + "-count");
  const field = document.getElementById(table.id + "-filter");

  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value !== undefined ? Number(cell.dataset.value) : cell.textContent.trim();
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b));

  for (const button of table.tHead.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const descending = head.getAttribute("aria-sort") === "ascending" ||
        (!head.hasAttribute("aria-sort") && head.classList.contains("number"));
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      rows.sort((a, b) => (descending ? -1 : 1) * compare(value(a, head.cellIndex), value(b, head.cellIndex)));
      body.append(...rows);
    });
  }

  if (!field) continue;  // a short table has none
  const filter = () => {
    const wanted = field.value.toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = shown + " of " + rows.length + " rows";
  };
  field.addEventListener("input", filter);
  field.closest(".filter").hidden = false;
  filter();
}
