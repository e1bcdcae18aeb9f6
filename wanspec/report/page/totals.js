// The overview: all requests that the filters leave, and each policy of theirs.
function drawOverview(requests) {
  const box = byId("overview");
  if (!requests.length) return box.replaceChildren(el("p", { class: "dim" }, "No request matches the filters."));
  const parts = partsOf(requests), tokens = sum(requests.map((r) => r.tokens.length));
  const policies = [...new Set(requests.map((r) => r.policy))];
  box.replaceChildren(
    partsBar(parts, "All requests shown"),
    partsLegend(parts, requests.length, " a request"),
    el("dl", { class: "tiles" }, ...tiles(requests, tokens).flatMap(([name, value, more]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, value, more ? el("small", {}, ` ${more}`) : null)))),
    policies.length > 1 ? policyTable(requests, policies) : "",
  );
}

const partsOf = (requests) => PARTS.map((_, place) => sum(requests.map((r) => r.parts[place])));
const total = (requests, name) => sum(requests.map((r) => r[name]));

function tiles(requests, tokens) {
  const latencies = requests.map((r) => r.ms);
  const rounds = total(requests, "rounds"), verified = (who) => total(requests, `drafted_${who}`);
  const accepted = (who) => share(total(requests, `accepted_${who}`), verified(who));
  const passes = total(requests, "remote_draft_passes");
  return [
    ["Requests", count(requests.length), `${count(tokens)} tokens`],
    ["Latency", ms(quantile(latencies, 0.5)), `p95 ${ms(quantile(latencies, 0.95))}`],
    ["Per token", ms(tokens ? sum(latencies) / tokens : null), "of latency"],
    ["First token", ms(quantile(requests.map((r) => r.ttft), 0.5)), "median"],
    ["Tokens a round", ratio(tokens, rounds, 2), `${count(rounds)} rounds`],
    ["Remote drafts", accepted("remote"), `accepted of ${count(verified("remote"))}`],
    ["Local drafts", accepted("local"), `accepted of ${count(verified("local"))}`],
    ["Local draft passes", count(total(requests, "local_draft_passes")), `${ratio(100 * total(requests, "local_draft_passes"), tokens)} in 100 tokens`],
    ["Worker passes", count(passes), passes ? `${share(total(requests, "remote_passes_used"), passes)} used` : ""],
    ["Round trip", ms(quantile(requests.map((r) => r.rtt), 0.5)), "median"],
    ["Events", count(requests.filter((r) => r.eventful).length), "requests with any"],
    ["WAN", bytes(tokens ? (total(requests, "bytes_up") + total(requests, "bytes_down")) / tokens : 0), "a token"],
  ];
}

function policyTable(requests, policies) {
  const longest = Math.max(...policies.map((policy) => meanLatency(requests, policy)));
  const rows = policies.map((policy) => {
    const mine = requests.filter((r) => r.policy === policy);
    const tokens = sum(mine.map((r) => r.tokens.length)), parts = partsOf(mine);
    const bar = partsBar(parts, policy);
    bar.style.width = `${(100 * meanLatency(requests, policy)) / longest}%`;
    return el("tr", {},
      el("th", { scope: "row" }, el("button", { type: "button", class: "link", title: "Show these only", onclick: () => choosePolicy(policy) }, policy)),
      el("td", {}, count(mine.length)), el("td", {}, ms(quantile(mine.map((r) => r.ms), 0.5))),
      el("td", {}, ms(tokens ? sum(mine.map((r) => r.ms)) / tokens : null)),
      el("td", {}, ratio(tokens, total(mine, "rounds"), 2)),
      el("td", {}, ratio(100 * total(mine, "local_draft_passes"), tokens)),
      el("td", {}, ms(tokens ? (parts[0] + parts[1]) / tokens : null)),
      el("td", { class: "wide" }, bar));
  });
  const heads = ["policy", "requests", "latency", "per token", "tokens a round", "local passes in 100 tokens", "scarce GPU per token", "where the time went"];
  return el("div", { class: "scroll" }, el("table", { class: "policies" },
    el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))), el("tbody", {}, ...rows)));
}

function meanLatency(requests, policy) {
  const mine = requests.filter((r) => r.policy === policy);
  return sum(mine.map((r) => r.ms)) / mine.length;
}
