/* Sorting and filtering of boards. Without this file every page is complete; with it the state of a board stands in the address. */
"use strict";

const BATCH = 50;

function board(section) {
  const table = section.querySelector("table");
  const body = table.tBodies[0];
  const noun = section.dataset.noun;
  const facets = JSON.parse(section.querySelector(".facet-data").textContent);
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows].map((tr, place) => ({
    tr, place,
    words: tr.textContent.toLowerCase(),
    has: Object.fromEntries(facets.map((f) => [f.key, new Set((tr.getAttribute("data-" + f.key) || "").split(" ").filter(Boolean))])),
    sort: [...tr.cells].map((td, column) => sortable(td, heads[column])),
  }));
  const state = { q: "", chosen: Object.fromEntries(facets.map((f) => [f.key, new Set()])), sort: null };
  const search = section.querySelector("input[type=search]");
  const clear = section.querySelector(".clear");
  const status = section.querySelector(".status");
  const initial = heads.map((th) => th.getAttribute("aria-sort"));
  const boxes = Object.fromEntries(facets.map((f) => [f.key, []]));
  let shownOrder = rows, later = 0;

  function sortable(td, th) {
    if (!th.classList.contains("num")) return td.dataset.v !== undefined ? Number(td.dataset.v) : td.textContent.trim().toLowerCase() || null;
    return td.dataset.v === undefined ? null : Number(td.dataset.v);
  }

  function matches(row, without) {
    if (state.q && !state.q.split(" ").every((word) => row.words.includes(word))) return false;
    for (const f of facets) {
      const wanted = state.chosen[f.key];
      if (f.key === without || !wanted.size) continue;
      let any = false;
      for (const value of wanted) if (row.has[f.key].has(value)) { any = true; break; }
      if (!any) return false;
    }
    return true;
  }

  function order() {
    if (!state.sort) return rows;
    const { column, down } = state.sort;
    return [...rows].sort((a, b) => {
      const x = a.sort[column], y = b.sort[column];
      if (x === null || y === null) return (x === null) - (y === null) || a.place - b.place; // what has no value comes last either way
      const sign = typeof x === "number" ? x - y : x < y ? -1 : x > y ? 1 : 0;
      return (down ? -sign : sign) || a.place - b.place;
    });
  }

  /* The rows that fit a window at once, the others in batches behind: laying out hundreds of rows takes longer than a key press. */
  function reveal(kept, from) {
    clearTimeout(later);
    let changed = 0, place = from;
    for (; place < kept.length && changed < BATCH; place++) if (kept[place].tr.hidden) { kept[place].tr.hidden = false; changed++; }
    if (place < kept.length) later = setTimeout(() => reveal(kept, place), 0);
  }

  function apply() {
    const started = performance.now();
    const wanted = order(), kept = wanted.filter((row) => matches(row, null)), keeping = new Set(kept), shown = kept.length;
    const moved = wanted.some((row, i) => row !== shownOrder[i]);
    for (const row of rows) if (!row.tr.hidden && !keeping.has(row)) row.tr.hidden = true;
    if (moved) {
      for (const row of kept.slice(BATCH)) row.tr.hidden = true;
      body.append(...wanted.map((row) => row.tr));
      shownOrder = wanted;
    }
    reveal(kept, 0);
    heads.forEach((th, i) => {
      const sort = state.sort ? (state.sort.column === i ? (state.sort.down ? "descending" : "ascending") : null) : initial[i];
      if (sort) th.setAttribute("aria-sort", sort); else th.removeAttribute("aria-sort");
    });
    for (const f of facets) {
      const counts = new Map();
      for (const row of rows) if (matches(row, f.key)) for (const value of row.has[f.key]) counts.set(value, (counts.get(value) || 0) + 1);
      for (const box of boxes[f.key]) {
        const count = counts.get(box.value) || 0;
        if (box.shown !== count) {
          box.shown = count;
          box.count.textContent = count;
          box.label.classList.toggle("empty", !count);
        }
        box.input.checked = state.chosen[f.key].has(box.value);
      }
    }
    for (const d of section.querySelectorAll(".facet")) {
      const chosen = state.chosen[d.dataset.key].size;
      d.classList.toggle("on", chosen > 0);
      d.querySelector(".much").textContent = chosen ? " · " + chosen : "";
    }
    if (document.activeElement !== search) search.value = state.q;
    clear.hidden = !state.q && !state.sort && facets.every((f) => !state.chosen[f.key].size);
    status.textContent = shown === rows.length ? `${shown} ${noun}` : `${shown} of ${rows.length} ${noun}`;
    section.dataset.took = (performance.now() - started).toFixed(1);
  }

  function write() {
    const parts = [];
    if (state.q) parts.push("q=" + encodeURIComponent(state.q));
    for (const f of facets) if (state.chosen[f.key].size) parts.push(f.key + "=" + [...state.chosen[f.key]].map(encodeURIComponent).join(","));
    if (state.sort) parts.push("sort=" + (state.sort.down ? "-" : "") + encodeURIComponent(heads[state.sort.column].dataset.key));
    history.replaceState(null, "", parts.length ? "#" + parts.join("&") : location.pathname + location.search);
  }

  function read() {
    state.q = ""; state.sort = null;
    for (const f of facets) state.chosen[f.key].clear();
    for (const part of location.hash.slice(1).split("&")) {
      const [key, value = ""] = part.split("=").map((text) => { try { return decodeURIComponent(text); } catch { return text; } });
      if (key === "q") state.q = value.toLowerCase();
      else if (key === "sort") {
        const down = value.startsWith("-"), column = heads.findIndex((th) => th.dataset.key === value.slice(down));
        if (column >= 0) state.sort = { column, down };
      } else if (state.chosen[key]) {
        const legal = new Set(facets.find((f) => f.key === key).values.map(([name]) => name));
        value.split(",").filter((name) => legal.has(name)).forEach((name) => state.chosen[key].add(name));
      }
    }
  }

  function change() { apply(); write(); }

  heads.forEach((th, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = th.textContent;
    th.replaceChildren(button);
    button.addEventListener("click", () => {
      const first = th.classList.contains("num"); // numbers: the largest first
      const now = state.sort && state.sort.column === column ? state.sort.down : !state.sort && initial[column] ? initial[column] === "descending" : null;
      state.sort = { column, down: now === null ? first : !now };
      change();
    });
  });

  for (const f of facets) {
    const d = document.createElement("details");
    d.className = "facet";
    d.dataset.key = f.key;
    const summary = document.createElement("summary"), much = document.createElement("span"), menu = document.createElement("div");
    much.className = "much";
    summary.append(f.label, much);
    menu.className = "menu";
    menu.setAttribute("role", "group");
    menu.setAttribute("aria-label", f.label);
    for (const [value, name] of f.values) {
      const label = document.createElement("label"), input = document.createElement("input"), count = document.createElement("span");
      input.type = "checkbox";
      input.value = value;
      count.className = "c";
      input.addEventListener("change", () => { state.chosen[f.key][input.checked ? "add" : "delete"](value); change(); });
      label.append(input, name, count);
      menu.append(label);
      boxes[f.key].push({ value, label, input, count, shown: null });
    }
    d.append(summary, menu);
    d.addEventListener("toggle", () => { if (d.open) for (const other of section.querySelectorAll(".facet[open]")) if (other !== d) other.open = false; });
    d.addEventListener("keydown", (event) => { if (event.key === "Escape" && d.open) { d.open = false; summary.focus(); } });
    section.querySelector(".facets").append(d);
  }
  document.addEventListener("click", (event) => { for (const d of section.querySelectorAll(".facet[open]")) if (!d.contains(event.target)) d.open = false; });
  search.addEventListener("input", () => { state.q = search.value.trim().toLowerCase(); change(); });
  clear.addEventListener("click", () => { history.replaceState(null, "", location.pathname + location.search); read(); search.value = ""; apply(); search.focus(); });
  window.addEventListener("hashchange", () => { read(); apply(); });
  section.querySelector(".controls").hidden = false;
  const widths = heads.map((th) => Math.ceil(th.getBoundingClientRect().width)); // columns stay where they are while rows come and go
  heads.forEach((th, i) => { th.style.width = widths[i] + "px"; });
  table.style.minWidth = widths.reduce((sum, width) => sum + width, 0) + "px";
  table.style.tableLayout = "fixed";
  read();
  apply();
}

for (const section of document.querySelectorAll(".board")) board(section);

document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);
  const search = document.querySelector("input[type=search]");
  if (event.key === "/" && !typing && search) { event.preventDefault(); search.focus(); }
});
