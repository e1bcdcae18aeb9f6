// The data of the page: an index of all requests, and each request's details, read when it is first shown.
const INDEX = JSON.parse(document.getElementById("index").textContent);
const REQUESTS = INDEX.requests;
const STRINGS = INDEX.strings;
const VERIFY = 0, DRAFT = 1, WAIT = 2;
const UP = 0, DOWN = 1, WORKER = 2;
const ORIGINS = { t: "target", r: "remote draft", l: "local draft" };

// By place in a request's `parts`: what it is called, its colour's name, and what it means.
const PARTS = [
  ["Target GPU", "target", "the target engine's own time in its calls"],
  ["Local draft GPU", "draft", "the local draft engine's own time in its calls"],
  ["Network", "network", "of the waits that drafts ended: commit and drafts between the regions, with Triton's transport"],
  ["Worker", "worker", "of the waits that drafts ended: the worker's queue and passes"],
  ["Waiting", "waiting", "waits that no drafts ended, or that began after the drafts had left"],
  ["Triton's queue", "triton", "engine calls beyond the engines' own time: queue and transport"],
  ["Endpoint", "endpoint", "the endpoint's own work: text to tokens and back; event logs do not hold it"],
  ["Turn", "turn", "waiting to be admitted"],
  ["Unaccounted", "unaccounted", "the rest of the latency"],
];

REQUESTS.forEach((request, number) => {
  request.number = number;
  INDEX.counts.forEach((name, place) => { request[name] = request.counts[place]; });
  request.eventful = request.events.length > 0 || request.error !== "" || !["stop", "length"].includes(request.reason);
});

function searchText(request) {
  request.search ??= `${request.name} ${request.prompt} ${(request.pieces ?? []).join("")}`.toLowerCase();
  return request.search;
}

const detailCache = new Map();
function detailsOf(number) {
  if (!detailCache.has(number)) {
    if (detailCache.size > 20) detailCache.delete(detailCache.keys().next().value);
    detailCache.set(number, readDetails(JSON.parse(document.getElementById(`request-${number}`).textContent)));
  }
  return detailCache.get(number);
}

function readDetails(raw) {
  const rounds = raw.rounds.map(readRound);
  let first = 0; // of the round's tokens in the answer
  for (const round of rounds) {
    round.first = first;
    first += round.committed.length;
  }
  return { rounds, spans: raw.spans.map(readSpan), vocab: raw.vocab };
}

function readRound([index, length, began, ended, drafted, origins, accepted, committed, rtt, epoch, up, down, steps, events]) {
  return {
    index, length, began, ended, drafted, origins, accepted, committed, rtt, epoch, up, down,
    steps: steps.map(([kind, from, to, engine, network, worker, cause, scores]) => ({
      kind, began: from, ended: to, engine: Math.min(engine, to - from), network, worker,
      cause: STRINGS[cause], scores: pairs(scores),
    })),
    events: events.map(([at, what]) => ({ at, what: STRINGS[what] })),
  };
}

function readSpan([lane, began, ended, what, names, ...values]) {
  return { lane, began, ended, what: STRINGS[what], values: STRINGS[names].split("|").map((name, i) => [name, values[i]]) };
}

function pairs(flat) {
  const found = [];
  for (let i = 0; i < flat.length; i += 2) found.push([STRINGS[flat[i]], flat[i + 1]]);
  return found;
}
