// Moving about in a waterfall: pointer, wheel, keys, the strip above it.
const NAVIGABLE = new Set(["verify", "draft", "wait"]);

function attachView(fall, select) {
  const { canvas, map } = fall;
  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.offsetX, from: fall.from, to: fall.to, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drag && Math.abs(event.offsetX - drag.x) > 3) drag.moved = true;
    if (drag?.moved) {
      const by = ((drag.x - event.offsetX) / (fall.width - fall.gutter)) * (drag.to - drag.from);
      return fall.show(drag.from + by, drag.to + by);
    }
    hover(fall, itemAt(fall, event.offsetX, event.offsetY), event);
  });
  canvas.addEventListener("pointerup", (event) => {
    if (drag && !drag.moved) select(itemAt(fall, event.offsetX, event.offsetY));
    drag = null;
  });
  canvas.addEventListener("pointercancel", () => { drag = null; });
  canvas.addEventListener("pointerleave", (event) => hover(fall, null, event));
  canvas.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      const zooms = event.ctrlKey || event.metaKey, by = event.deltaX || event.deltaY;
      if (zooms) zoom(fall, Math.exp(by / 300), fall.time(event.offsetX));
      else pan(fall, by / (fall.width - fall.gutter));
    }
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => keyInFall(fall, select, event));
  const toPlace = (event) => {
    if (event.buttons !== 1) return;
    const middle = (event.offsetX / map.clientWidth) * fall.length, half = (fall.to - fall.from) / 2;
    fall.show(middle - half, middle + half);
  };
  map.addEventListener("pointerdown", toPlace);
  map.addEventListener("pointermove", toPlace);
}

function zoom(fall, factor, around = (fall.from + fall.to) / 2) {
  fall.show(around - (around - fall.from) * factor, around + (fall.to - around) * factor);
}

function pan(fall, share) {
  const by = (fall.to - fall.from) * share;
  fall.show(fall.from + by, fall.to + by);
}

function itemAt(fall, x, y) {
  if (x < fall.gutter) return null;
  if (y < AXIS + FLAGS) return nearest(fall, fall.visible(EVENTS), (item) => Math.abs(fall.x(item.began) + 4 - x), 9);
  const lane = LANES.findIndex((each, number) => y < fall.laneTop(number) + each.height);
  if (lane < 0) return null;
  if (lane === WAN_UP || lane === WAN_DOWN) return nearest(fall, fall.visible(lane), (item) => fromLine(fall.line(item), x, y), 8);
  return nearest(fall, fall.visible(lane), (item) => Math.max(fall.x(item.began) - x, x - fall.x(item.ended), 0), 3);
}

function nearest(fall, items, distance, most) {
  let best = null, least = most;
  for (const item of items) {
    const here = distance(item);
    if (here < least) [best, least] = [item, here];
  }
  return best;
}

function fromLine([x0, y0, x1, y1], x, y) {
  const length = (x1 - x0) ** 2 + (y1 - y0) ** 2;
  const at = Math.max(0, Math.min(1, ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length));
  return Math.hypot(x - x0 - at * (x1 - x0), y - y0 - at * (y1 - y0));
}

function hover(fall, item, event) {
  if (item !== fall.hovered) {
    fall.hovered = item;
    fall.draw();
    markTokens(item?.round ?? null);
  }
  const tip = byId("tip");
  tip.hidden = !item || event.pointerType === "touch";
  if (tip.hidden) return;
  tip.replaceChildren(describe(fall, item, true));
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, innerWidth - box.width - 8))}px`;
  tip.style.top = `${event.clientY + 18 + box.height > innerHeight ? Math.max(8, event.clientY - box.height - 12) : event.clientY + 18}px`;
}

function keyInFall(fall, select, event) {
  const actions = {
    ArrowRight: () => step(fall, select, 1, event.shiftKey), ArrowLeft: () => step(fall, select, -1, event.shiftKey),
    ArrowDown: () => otherLane(fall, select, 1), ArrowUp: () => otherLane(fall, select, -1),
    Home: () => select(fall.items.find((item) => NAVIGABLE.has(item.kind))),
    End: () => select(fall.items.findLast((item) => NAVIGABLE.has(item.kind))),
    "+": () => zoom(fall, 0.6), "=": () => zoom(fall, 0.6), "-": () => zoom(fall, 1 / 0.6), 0: () => fall.show(0, fall.length),
    PageDown: () => pan(fall, 0.8), PageUp: () => pan(fall, -0.8), Escape: () => select(null),
  };
  if (!actions[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  byId("tip").hidden = true;
  actions[event.key]();
}

// To the next item of the lane; of the critical path where it is on it; or to the next round's.
function step(fall, select, by, rounds) {
  const now = fall.selected;
  const path = fall.items.filter((item) => (!now || NAVIGABLE.has(now.kind) ? NAVIGABLE.has(item.kind) : item.lane === now.lane));
  if (!now) return select(path[by > 0 ? 0 : path.length - 1]);
  let place = path.indexOf(now) + by;
  while (rounds && path[place] && path[place].round === now.round) place += by;
  if (path[place]) select(path[place]);
}

function otherLane(fall, select, by) {
  if (!fall.selected) return step(fall, select, 1, false);
  const middle = (fall.selected.began + fall.selected.ended) / 2;
  for (let lane = fall.selected.lane + by; lane >= EVENTS && lane < LANES.length; lane += by) {
    const there = fall.items.filter((item) => item.lane === lane);
    const best = nearest(fall, there, (item) => Math.max(item.began - middle, middle - item.ended, 0), fall.to - fall.from);
    if (best) return select(best);
  }
}
