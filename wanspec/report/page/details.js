// One request: its figures, its text, its waterfall, what is selected in it, its rounds as a table.
const LETTERS = { t: "target", r: "remote draft", l: "local draft" };
let shownFall = null;

function choose(number) {
  listState.selected = number;
  const request = REQUESTS[number];
  byId("tip").hidden = true;
  drawDetail(request);
  showSelectedRow();
  try { history.replaceState(null, "", `#r${number}`); } catch { /* some browsers refuse it for files */ }
}

function drawDetail(request) {
  const details = detailsOf(request.number), fall = new Waterfall(request, details);
  const selection = el("div", { id: "selection", class: "selection", "aria-live": "polite" });
  const select = (item) => {
    fall.selected = item ?? null;
    if (item && (item.ended < fall.from || item.began > fall.to)) centre(fall, item);
    fall.draw();
    markTokens(item?.round ?? null);
    selection.replaceChildren(item ? describe(fall, item, false) : el("p", { class: "dim" }, "Point at a bar for its attributes; click, or press an arrow key in the waterfall, to keep them here."));
  };
  const button = (text, label, act) => el("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
  byId("detail").replaceChildren(
    el("div", { class: "head" }, el("h2", {}, request.name, " ", el("span", { class: "chip" }, request.policy)), el("p", { class: "dim" }, origin(request))),
    request.error ? el("p", { class: "note" }, request.error) : "",
    figures(request), partsBar(request.parts, "This request"), partsLegend(request.parts),
    texts(request, details, (round) => select(fall.items.find((item) => item.kind === "round" && item.round === round))),
    el("div", { class: "row controls" }, el("h3", {}, "Waterfall"), el("span", { class: "grow" }),
      button("−", "Zoom out (-)", () => zoom(fall, 1 / 0.6)), button("+", "Zoom in (+)", () => zoom(fall, 0.6)), button("All", "Show all (0)", () => fall.show(0, fall.length))),
    fall.map, fall.canvas, key(), selection, roundTable(fall, select));
  attachView(fall, select);
  select(null);
  shownFall = fall;
  new ResizeObserver(() => shownFall === fall && fall.draw()).observe(fall.canvas);
}

const origin = (request) => [request.source === request.name ? "" : request.source, request.trace ? `trace ${request.trace}` : "", `ended: ${request.reason}`].filter(Boolean).join(" · ");

function centre(fall, item) {
  const middle = (item.began + item.ended) / 2, half = Math.max(fall.to - fall.from, (item.ended - item.began) * 1.2) / 2;
  fall.show(middle - half, middle + half);
}

function figures(request) {
  const tokens = request.tokens.length;
  const facts = [
    ["latency", ms(request.ms)], ["per token", ms(tokens ? request.ms / tokens : null)], ["first token", ms(request.ttft)],
    ["tokens", `${count(request.promptTokens)} + ${count(tokens)}`], ["rounds", `${count(request.rounds)}, ${ratio(tokens, request.rounds, 2)} tokens each`],
    ["remote drafts accepted", `${count(request.accepted_remote)} of ${count(request.drafted_remote)}`],
    ["local draft passes", count(request.local_draft_passes)], ["worker passes", `${count(request.remote_draft_passes)}, ${count(request.remote_passes_used)} used`],
    ["round trip", ms(request.rtt)],
  ];
  return el("dl", { class: "facts" }, ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

function texts(request, details, selectRound) {
  const prompt = request.prompt ? el("details", { class: "prompt" }, el("summary", {}, "Prompt"), el("p", { dir: "auto" }, request.prompt)) : "";
  const answer = el("p", { class: "answer", dir: "auto", lang: "" });
  const byToken = request.pieces?.length === request.tokens.length;
  if (request.pieces && !byToken) answer.append(...request.pieces);
  for (const round of request.pieces && !byToken ? [] : details.rounds) {
    round.committed.forEach((token, place) => {
      const text = byToken ? request.pieces[round.first + place] : token < 0 ? "▪ " : ` #${token}`, letter = request.origins[round.first + place] ?? "t";
      if (text) answer.append(el("span", { class: `tok ${letter}`, "data-round": round.index, title: `round ${round.index}: ${LETTERS[letter]}` }, text));
    });
  }
  answer.addEventListener("click", (event) => {
    const index = event.target.dataset?.round;
    if (index !== undefined) selectRound(details.rounds.find((round) => round.index === Number(index)));
  });
  const counts = ["r", "l", "t"].map((letter) => el("li", {}, el("span", { class: `tok ${letter}` }, LETTERS[letter]), el("b", {}, count([...request.origins].filter((each) => each === letter).length))));
  return el("div", { class: "texts" }, prompt, answer, el("ul", { class: "legend" }, ...counts));
}

function markTokens(round) {
  for (const token of document.querySelectorAll(".answer .lit")) token.classList.remove("lit");
  if (round) for (const token of document.querySelectorAll(`.answer [data-round="${round.index}"]`)) token.classList.add("lit");
}

function key() {
  const entries = [["target", "target"], ["draft", "local draft"], ["network", "network"], ["worker", "worker"], ["waiting", "other wait"], ["triton", "Triton's queue and transport"]];
  return el("ul", { class: "legend key" }, ...entries.map(([colour, name]) => el("li", {}, el("i", { class: `part ${colour}` }), name)),
    el("li", { class: "dim" }, "On a verification: accepted / drafted. On a pass: leaves. Ways across the WAN: half a round trip each, as clocks differ."));
}

// What is known of an item: its attributes, its drafts, what each option was expected to bring.
function describe(fall, item, short) {
  const { title, rows } = attributes(item, fall.request);
  const parts = [el("h4", {}, title), el("dl", { class: "attributes" }, ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]))];
  if (["round", "verify"].includes(item.kind)) parts.push(...draftChips(item.round, fall));
  if (item.of.scores?.length) parts.push(scoreBars(item.of));
  else if (!short && NAVIGABLE.has(item.kind)) parts.push(el("p", { class: "dim" }, "This policy weighs no options: there are no scores."));
  return el("div", {}, ...parts);
}

function attributes(item, request) {
  const { round, of } = item, when = [["from – to", `${ms(item.began)} – ${ms(item.ended)}`], ["took", ms(item.ended - item.began)]];
  if (item.kind === "event") return { title: of.what, rows: [["at", ms(of.at)], ["round", `${round.index}`]] };
  if (item.kind === "round") {
    return { title: `Round ${round.index}${round.index ? "" : " (prefill)"}`, rows: [...when, ["length before", count(round.length)], ...verdictRows(round), ["RTT estimate", ms(round.rtt)], ["epoch", `${round.epoch}`], ["bytes up / down", `${bytes(round.up)} / ${bytes(round.down)}`], ...round.events.map((each) => ["event", each.what])] };
  }
  if (!NAVIGABLE.has(item.kind)) {
    const way = { [WAN_UP]: "WAN up: ", [WAN_DOWN]: "WAN down: ", [WORKER_LANE]: "Idle GPU: " }[item.lane];
    return { title: way + item.kind, rows: [...when, ...of.values.map(([name, value]) => [name.replace(/ ms$/, ""), name.endsWith(" ms") ? ms(value) : count(value)])] };
  }
  const names = { verify: "Target verifies", draft: "Local draft", wait: "Wait" };
  const split = item.kind === "wait"
    ? [["network", ms(of.network)], ["worker", ms(of.worker)], ["other", ms(Math.max(0, item.ended - item.began - of.network - of.worker))]]
    : [["engine", ms(of.engine)], ["queue", ms(item.ended - item.began - of.engine)]];
  return { title: `${names[item.kind]}, round ${round.index}`, rows: [...when, ...split, ...(of.cause ? [["why", of.cause]] : []), ...(item.kind === "verify" ? verdictRows(round) : [])] };
}

const verdictRows = (round) => [["drafts", `${round.accepted} of ${round.drafted.length} accepted`], ["committed", plural(round.committed.length, "token")]];

function draftChips(round, fall) {
  if (!round.drafted.length) return [];
  const own = round.committed[round.accepted];
  return [el("p", { class: "chips" }, ...round.drafted.map((token, place) =>
    el("span", { class: `tok ${round.origins[place]} ${place < round.accepted ? "" : "rejected"}`, title: `${LETTERS[round.origins[place]]}, ${place < round.accepted ? "accepted" : "rejected"}` }, tokenText(fall.details.vocab, token))),
    own === undefined ? "" : el("span", { class: "tok t", title: "the target's own" }, tokenText(fall.details.vocab, own)))];
}

function scoreBars(step) {
  const values = step.scores.map(([, value]) => value ?? 0), low = Math.min(0, ...values), high = Math.max(...values, low + 1e-9), chosen = chosenScore(step);
  return el("div", { class: "scores" }, el("p", { class: "dim" }, "what each option was expected to bring, in tokens"), ...step.scores.map(([name, value], place) => {
    const bar = el("i", {});
    bar.style.width = `${(100 * ((value ?? 0) - low)) / (high - low)}%`;
    return el("div", { class: place === chosen ? "score chosen" : "score" }, el("span", {}, `${place === chosen ? "▸ " : ""}${name}`), el("span", { class: "track" }, bar), el("b", {}, value === null ? "–" : value.toFixed(3)));
  }));
}
