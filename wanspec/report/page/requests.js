// The list of requests: filters, order, and only those rows in the document that can be seen.
const ROW = 66, SPARE = 6;
const ORDERS = {
  order: ["in order", (a, b) => a.number - b.number],
  slowest: ["slowest first", (a, b) => b.ms - a.ms],
  fastest: ["fastest first", (a, b) => a.ms - b.ms],
  token: ["slowest per token", (a, b) => b.ms / (b.tokens.length || 1) - a.ms / (a.tokens.length || 1)],
  first: ["latest first token", (a, b) => (b.ttft ?? Infinity) - (a.ttft ?? Infinity)],
  network: ["most network time", (a, b) => b.parts[2] - a.parts[2]],
  waiting: ["most waiting", (a, b) => sum(b.parts.slice(2, 5)) - sum(a.parts.slice(2, 5))],
};
const listState = { shown: REQUESTS, selected: -1, longest: Math.max(1, ...REQUESTS.map((r) => r.ms)) };

function setUpList() {
  const policies = [...new Set(REQUESTS.map((r) => r.policy))].sort();
  byId("policy").append(el("option", { value: "" }, "every policy"), ...policies.map((each) => el("option", { value: each }, each)));
  byId("sort").append(...Object.entries(ORDERS).map(([value, [name]]) => el("option", { value }, name)));
  for (const id of ["search", "policy", "sort", "slow", "eventful"]) byId(id).addEventListener("input", applyFilters);
  const list = byId("list");
  list.append(el("div", { id: "rows" }));
  list.addEventListener("scroll", () => requestAnimationFrame(drawRows), { passive: true });
  new ResizeObserver(drawRows).observe(list);
  list.addEventListener("keydown", moveInList);
  list.addEventListener("click", (event) => {
    const row = event.target.closest("[data-number]");
    if (row) choose(Number(row.dataset.number));
  });
}

function choosePolicy(policy) {
  byId("policy").value = byId("policy").value === policy ? "" : policy;
  applyFilters();
}

function applyFilters() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const policy = byId("policy").value, slow = Number(byId("slow").value) || 0, eventful = byId("eventful").checked;
  listState.shown = REQUESTS.filter((request) =>
    (!policy || request.policy === policy) && request.ms >= slow && (!eventful || request.eventful)
    && words.every((word) => searchText(request).includes(word))).sort(ORDERS[byId("sort").value][1]);
  byId("shown").textContent = `${count(listState.shown.length)} of ${plural(REQUESTS.length, "request")}`;
  byId("list").scrollTop = 0;
  drawRows();
  drawOverview(listState.shown);
  if (listState.shown.length && !listState.shown.some((r) => r.number === listState.selected)) choose(listState.shown[0].number);
}

function drawRows() {
  const list = byId("list"), rows = byId("rows"), shown = listState.shown;
  rows.style.height = `${shown.length * ROW}px`;
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - SPARE);
  const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + SPARE);
  rows.replaceChildren(...shown.slice(first, last).map((request, place) => row(request, first + place)));
  const active = document.getElementById(`row-${listState.selected}`);
  if (active) list.setAttribute("aria-activedescendant", active.id);
  else list.removeAttribute("aria-activedescendant");
}

function row(request, place) {
  const bar = partsBar(request.parts, "time");
  bar.style.width = `${Math.max(2, (100 * request.ms) / listState.longest)}%`;
  const events = request.eventful ? el("span", { class: "warn", title: [...request.events, request.error].filter(Boolean).join(", ") || request.reason }, ` ⚑ ${request.events.length || request.reason}`) : null;
  const item = el("div", {
    class: "request", role: "option", id: `row-${request.number}`, "data-number": request.number,
    "aria-selected": String(request.number === listState.selected), "aria-setsize": listState.shown.length, "aria-posinset": place + 1,
  },
    el("div", { class: "line" }, el("span", { class: "snippet", dir: "auto" }, snippet(request)), el("b", {}, ms(request.ms))),
    bar,
    el("div", { class: "line dim" }, el("span", {}, request.policy), el("span", {}, `${plural(request.tokens.length, "token")}, ${plural(request.rounds, "round")}`, events)));
  item.style.top = `${place * ROW}px`;
  return item;
}

function snippet(request) {
  const text = (request.pieces ?? []).join("").trim().replace(/\s+/g, " ");
  return text ? text.slice(0, 80) : request.name;
}

function moveInList(event) {
  const page = Math.max(1, Math.floor(byId("list").clientHeight / ROW) - 1);
  const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
  if (step === undefined || !listState.shown.length) return;
  event.preventDefault();
  const now = listState.shown.findIndex((r) => r.number === listState.selected);
  const next = Math.max(0, Math.min(listState.shown.length - 1, now + step));
  choose(listState.shown[next].number);
}

function showSelectedRow() {
  const list = byId("list"), place = listState.shown.findIndex((r) => r.number === listState.selected);
  if (place >= 0) {
    if (place * ROW < list.scrollTop) list.scrollTop = place * ROW;
    else if ((place + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (place + 1) * ROW - list.clientHeight;
  }
  drawRows();
}
