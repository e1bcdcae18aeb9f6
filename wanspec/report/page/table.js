// The rounds of a request as a table: made when it is opened, a part at a time.
const TABLE_PART = 200;

function roundTable(fall, select) {
  const body = el("tbody", {}), { rounds } = fall.details;
  const heads = ["round", "ended", "tokens", "drafts accepted", "target", "local draft", "network", "worker", "other wait", "queue", "RTT", "events"];
  const more = el("button", { type: "button", onclick: () => extend() }, "more rounds");
  const extend = () => {
    const done = body.children.length;
    body.append(...rounds.slice(done, done + TABLE_PART).map((round) => roundRow(round, fall, select)));
    more.hidden = body.children.length >= rounds.length;
  };
  const box = el("details", { class: "rounds" }, el("summary", {}, `${plural(rounds.length, "round")} as a table`),
    el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))), body)), more);
  box.addEventListener("toggle", () => { if (box.open && !body.children.length) extend(); });
  return box;
}

function roundRow(round, fall, select) {
  const times = { target: 0, draft: 0, network: 0, worker: 0, other: 0, triton: 0 };
  for (const step of round.steps) {
    const took = step.ended - step.began;
    if (step.kind === WAIT) {
      times.network += step.network;
      times.worker += step.worker;
      times.other += Math.max(0, took - step.network - step.worker);
    } else {
      times[step.kind === VERIFY ? "target" : "draft"] += step.engine;
      times.triton += took - step.engine;
    }
  }
  const tokens = round.committed.map((token, place) => el("span", { class: `tok ${fall.request.origins[round.first + place] ?? "t"}` }, tokenText(fall.details.vocab, token)));
  const show = () => select(fall.items.find((item) => item.kind === "round" && item.round === round));
  return el("tr", {},
    el("th", { scope: "row" }, el("button", { type: "button", class: "link", onclick: show }, `${round.index}`)),
    el("td", {}, ms(round.ended)), el("td", { class: "left", dir: "auto" }, ...tokens), el("td", {}, round.drafted.length ? `${round.accepted}/${round.drafted.length}` : ""),
    ...["target", "draft", "network", "worker", "other", "triton"].map((name) => el("td", {}, times[name] > 0.005 ? ms(times[name]) : "")),
    el("td", {}, ms(round.rtt)), el("td", { class: "left" }, round.events.map((event) => event.what).join(", ")));
}
