// Draws one request on a canvas: only what lies between `from` and `to`, so that its length costs nothing.
const AXIS = 20, FLAGS = 16, GUTTER = 116, NARROW_GUTTER = 70;
const HEIGHT = AXIS + FLAGS + sum(LANES.map((lane) => lane.height)) + 4;
const COLOURS = ["ink", "dim", "line", "card", "band", "target", "draft", "network", "worker", "waiting", "triton", "warn", "focus", "token-t", "token-r", "token-l"];

class Waterfall {
  constructor(request, details) {
    this.request = request;
    this.details = details;
    this.items = itemsOf(details);
    this.length = Math.max(request.ms, ...this.items.map((item) => item.ended), 1);
    this.hovered = this.selected = null;
    this.canvas = el("canvas", { class: "waterfall", tabindex: "0", role: "application", "aria-label": `Waterfall of ${request.name}. Arrow keys go from step to step and from lane to lane, plus and minus zoom, 0 shows all.`, "aria-describedby": "selection" });
    this.map = el("canvas", { class: "map", "aria-hidden": "true" });
    this.palette = null;
    this.longest = new Map(); // by lane: its longest item, so that a search can begin early enough
    for (const item of this.items) this.longest.set(item.lane, Math.max(this.longest.get(item.lane) ?? 0, item.ended - item.began));
    const rounds = details.rounds;
    const first = rounds.length > 12 ? rounds[9].ended : this.length;
    [this.from, this.to] = [0, first];
  }

  get gutter() { return this.width < 620 ? NARROW_GUTTER : GUTTER; }
  x(time) { return this.gutter + ((time - this.from) / (this.to - this.from)) * (this.width - this.gutter); }
  time(x) { return this.from + ((x - this.gutter) / (this.width - this.gutter)) * (this.to - this.from); }

  show(from, to) {
    const span = Math.min(Math.max(to - from, 2), this.length * 1.02);
    this.from = Math.max(-0.01 * span, Math.min(from, this.length * 1.01 - span));
    this.to = this.from + span;
    this.draw();
  }

  laneTop(lane) { return AXIS + FLAGS + sum(LANES.slice(0, lane).map((each) => each.height)); }

  visible(lane) {
    const reach = this.longest.get(lane) ?? 0;
    let low = 0, high = this.items.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.items[middle].began < this.from - reach) low = middle + 1;
      else high = middle;
    }
    const found = [];
    for (let i = low; i < this.items.length && this.items[i].began <= this.to; i += 1) {
      if (this.items[i].lane === lane && this.items[i].ended >= this.from) found.push(this.items[i]);
    }
    return found;
  }

  // Drawing

  draw() {
    this.width = this.canvas.clientWidth;
    if (!this.width) return;
    this.palette ??= readPalette();
    const pen = prepare(this.canvas, this.width, HEIGHT);
    this.drawBands(pen);
    this.drawLanes(pen);
    pen.save();
    pen.beginPath();
    pen.rect(this.gutter, 0, this.width - this.gutter, HEIGHT);
    pen.clip();
    for (const item of this.visible(TOKENS)) this.drawTokens(pen, item);
    for (let lane = 1; lane < LANES.length; lane += 1) {
      for (const item of this.visible(lane)) (lane === WAN_UP || lane === WAN_DOWN ? this.drawMessage : this.drawBar).call(this, pen, item);
    }
    for (const item of this.visible(EVENTS)) this.drawEvent(pen, item);
    for (const [item, colour] of [[this.hovered, "dim"], [this.selected, "focus"]]) if (item) this.outline(pen, item, this.palette[colour]);
    pen.restore();
    this.drawMap();
  }

  drawBands(pen) {
    const { palette } = this;
    pen.font = FONT.small;
    let last = -Infinity;
    for (const { round, began, ended } of this.visible(TOKENS)) {
      const left = Math.max(this.x(began), this.gutter), right = this.x(ended);
      if (round.index % 2) {
        pen.fillStyle = palette.band;
        pen.fillRect(left, AXIS, right - left, HEIGHT - AXIS);
      }
      const label = `${round.index}`, middle = (left + Math.min(right, this.width)) / 2;
      if (right - left > 12 && middle - last > 9 * label.length + 6) {
        pen.fillStyle = palette.dim;
        pen.textAlign = "center";
        pen.fillText(label, middle, AXIS + 11);
        last = middle;
      }
    }
    this.drawAxis(pen);
  }

  drawAxis(pen) {
    const step = niceStep((this.to - this.from) / Math.max(2, (this.width - this.gutter) / 90));
    pen.textAlign = "left";
    for (let time = Math.max(0, Math.ceil(this.from / step) * step); time <= this.to; time += step) {
      pen.fillStyle = this.palette.line;
      pen.fillRect(Math.round(this.x(time)), 0, 1, HEIGHT);
      pen.fillStyle = this.palette.dim;
      pen.fillText(`${Number(time.toFixed(2)).toLocaleString("en")} ms`, this.x(time) + 4, 12);
    }
  }

  drawLanes(pen) {
    const { palette } = this;
    LANES.forEach((lane, number) => {
      const top = this.laneTop(number);
      pen.fillStyle = palette.line;
      pen.fillRect(0, top, this.width, lane.region ? 1.5 : 0.5);
      pen.fillStyle = palette.card;
      pen.fillRect(0, top + 2, this.gutter, lane.height - 2);
      pen.fillStyle = palette.ink;
      pen.font = FONT.label;
      pen.textAlign = "left";
      pen.fillText(this.gutter === GUTTER ? lane.name : lane.name.replace("Local draft GPU", "Draft GPU"), 2, top + lane.height / 2 + 4);
    });
    pen.fillStyle = palette.dim;
    pen.font = FONT.small;
    pen.fillText("round", 2, AXIS + 11);
  }

  drawBar(pen, item) {
    const top = this.laneTop(item.lane) + 4, height = LANES[item.lane].height - 8;
    for (const [colour, from, to] of item.segments) {
      if (to <= from) continue;
      const left = this.x(from), width = Math.max(1, this.x(to) - left - 0.75);
      pen.fillStyle = this.palette[colour];
      pen.globalAlpha = colour === "triton" ? 0.55 : 1;
      rounded(pen, left, top, width, height, 3);
      pen.globalAlpha = 1;
    }
    const label = barLabel(item), left = Math.max(this.x(item.began), this.gutter), room = Math.min(this.x(item.ended), this.width) - left;
    if (label && room > 8 * label.length + 8) {
      pen.fillStyle = "#fff";
      pen.font = FONT.small;
      pen.textAlign = "center";
      pen.fillText(label, left + room / 2, top + height / 2 + 4);
    }
  }

  // A message goes from the scarce region, above, to the idle one, below; or back.
  drawMessage(pen, item) {
    const [x0, y0, x1, y1] = this.line(item);
    pen.strokeStyle = this.palette.network;
    pen.lineWidth = item.kind === "open" ? 3.5 : 1.75;
    pen.beginPath();
    pen.moveTo(x0, y0);
    pen.lineTo(x1, y1);
    pen.stroke();
    pen.fillStyle = this.palette.network;
    pen.beginPath();
    pen.arc(x1, y1, item.kind === "open" ? 3.5 : 2.5, 0, 7);
    pen.fill();
  }

  line(item) {
    const top = this.laneTop(item.lane) + 4, bottom = top + LANES[item.lane].height - 8;
    const [from, to] = item.lane === WAN_UP ? [top, bottom] : [bottom, top];
    return [this.x(item.began), from, this.x(item.ended), to];
  }

  drawTokens(pen, item) {
    const { round } = item, top = this.laneTop(TOKENS) + 5, height = LANES[TOKENS].height - 10;
    let left = Math.max(this.x(item.began), this.gutter) + 1.5;
    const right = Math.min(this.x(item.ended), this.width) - 1.5;
    if (right - left < 2 || !round.committed.length) return;
    pen.font = FONT.text;
    pen.textAlign = "left";
    const texts = round.committed.map((token) => tokenText(this.details.vocab, token));
    const widths = texts.map((text) => pen.measureText(text).width + 6);
    const shrink = Math.min(1, (right - left) / sum(widths));
    texts.forEach((text, place) => {
      const width = widths[place] * shrink;
      pen.fillStyle = this.palette[`token-${this.request.origins[round.first + place] ?? "t"}`];
      rounded(pen, left, top, Math.max(1, width - 1), height, 3);
      if (shrink === 1 || width > 16) {
        pen.fillStyle = this.palette.ink;
        pen.fillText(shrink === 1 ? text : clipped(pen, text, width - 4), left + 2.5, top + height / 2 + 4.5);
      }
      left += width;
    });
  }

  drawEvent(pen, item) {
    const x = this.x(item.began), quiet = QUIET_EVENTS.has(item.of.what);
    pen.strokeStyle = pen.fillStyle = this.palette[quiet ? "dim" : "warn"];
    pen.lineWidth = 1.25;
    pen.setLineDash([3, 3]);
    pen.beginPath();
    pen.moveTo(x, AXIS + 4);
    pen.lineTo(x, HEIGHT);
    pen.stroke();
    pen.setLineDash([]);
    pen.beginPath();
    pen.moveTo(x, AXIS + 1);
    pen.lineTo(x + 9, AXIS + 5);
    pen.lineTo(x, AXIS + 10);
    pen.fill();
  }

  outline(pen, item, colour) {
    pen.strokeStyle = colour;
    pen.lineWidth = 2;
    if (item.lane === WAN_UP || item.lane === WAN_DOWN) {
      const [x0, y0, x1, y1] = this.line(item);
      pen.lineWidth = 4;
      pen.beginPath();
      pen.moveTo(x0, y0);
      pen.lineTo(x1, y1);
      pen.stroke();
      return;
    }
    const event = item.lane === EVENTS, top = event ? AXIS : this.laneTop(item.lane) + 2;
    const height = event ? FLAGS - 2 : LANES[item.lane].height - 4, left = this.x(item.began) - (event ? 3 : 0);
    pen.strokeRect(left, top, event ? 15 : Math.max(3, this.x(item.ended) - left), height);
  }

  // The whole request in a strip, with the part that is shown in a frame.
  drawMap() {
    const width = this.map.clientWidth, height = 30;
    const pen = prepare(this.map, width, height), scale = width / this.length;
    for (const item of this.items) {
      if (item.lane < 1 || item.lane > 3) continue;
      for (const [colour, from, to] of item.segments) {
        pen.fillStyle = this.palette[colour];
        pen.fillRect(from * scale, 7, Math.max(0.5, (to - from) * scale), height - 14);
      }
    }
    for (const item of this.items) {
      if (item.lane !== EVENTS || QUIET_EVENTS.has(item.of.what)) continue;
      pen.fillStyle = this.palette.warn;
      pen.fillRect(item.began * scale - 1, 0, 2.5, height);
    }
    pen.strokeStyle = this.palette.focus;
    pen.lineWidth = 2;
    pen.strokeRect(Math.max(1, this.from * scale), 1, Math.min(width - 1, this.to * scale) - Math.max(1, this.from * scale), height - 2);
  }
}
