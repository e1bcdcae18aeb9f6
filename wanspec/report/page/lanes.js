// What the waterfall shows, as items in lanes: {lane, kind, began, ended, segments: [[colour, from, to]], round, of}.
const LANES = [
  { name: "Tokens", height: 34 },
  { name: "Target GPU", height: 26, region: "scarce region" },
  { name: "Local draft GPU", height: 26 },
  { name: "Waiting", height: 26 },
  { name: "WAN up", height: 36, region: "WAN" },
  { name: "WAN down", height: 36 },
  { name: "Idle GPU", height: 26, region: "idle region" },
];
const TOKENS = 0, WAN_UP = 4, WAN_DOWN = 5, WORKER_LANE = 6, EVENTS = -1;
const KIND_LANES = { [VERIFY]: 1, [DRAFT]: 2, [WAIT]: 3 };
const KIND_NAMES = ["verify", "draft", "wait"];
const SPAN_LANES = { [UP]: WAN_UP, [DOWN]: WAN_DOWN, [WORKER]: WORKER_LANE };
const QUIET_EVENTS = new Set(["worker opens it"]);

function itemsOf(details) {
  const items = [];
  for (const round of details.rounds) {
    items.push({ lane: TOKENS, kind: "round", began: round.began, ended: round.ended, round, of: round, segments: [] });
    for (const step of round.steps) {
      const lane = KIND_LANES[step.kind], segments = step.kind === WAIT ? waitSegments(step) : callSegments(step);
      items.push({ lane, kind: KIND_NAMES[step.kind], began: step.began, ended: step.ended, round, of: step, segments });
    }
    for (const event of round.events) {
      items.push({ lane: EVENTS, kind: "event", began: event.at, ended: event.at, round, of: event, segments: [] });
    }
  }
  for (const span of details.spans) {
    const lane = SPAN_LANES[span.lane], values = new Map(span.values);
    const engine = Math.min(values.get("engine ms") ?? Infinity, span.ended - span.began);
    const segments = lane === WORKER_LANE ? [["triton", span.began, span.ended - engine], ["worker", span.ended - engine, span.ended]] : [["network", span.began, span.ended]];
    items.push({ lane, kind: span.what, began: span.began, ended: span.ended, round: roundAt(details, span.began), of: span, segments });
  }
  return items.sort((a, b) => a.began - b.began || a.lane - b.lane);
}

// The engine's own time is drawn at the end of its call: queueing comes before it, and its transport back is short.
function callSegments(step) {
  const start = step.ended - step.engine;
  return [["triton", step.began, start], [step.kind === VERIFY ? "target" : "draft", start, step.ended]];
}

// A wait that drafts ended: the commit under way, the worker, the drafts under way.
function waitSegments(step) {
  const known = step.network + step.worker, length = step.ended - step.began;
  if (known <= 0) return [["waiting", step.began, step.ended]];
  const rest = Math.max(0, length - known), back = step.network / (step.worker > 0 ? 2 : 1);
  const times = [["waiting", rest], ["network", step.network - back], ["worker", step.worker], ["network", back]];
  let at = step.began;
  return times.map(([colour, took]) => [colour, at, (at += took)]);
}

function roundAt(details, time) {
  const rounds = details.rounds;
  let low = 0, high = rounds.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rounds[middle].ended <= time) low = middle + 1;
    else high = middle;
  }
  return rounds[low] ?? null;
}

// The option that was taken: the best of its kind. Policies that weigh nothing have no scores.
function chosenScore(step) {
  const name = KIND_NAMES[step.kind];
  let best = -1;
  step.scores.forEach(([option, value], place) => {
    if (option.startsWith(name) && (best < 0 || value > step.scores[best][1])) best = place;
  });
  return best;
}
