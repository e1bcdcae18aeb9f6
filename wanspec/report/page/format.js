// Elements, numbers and token texts. Text reaches the page as text only, never as HTML.
function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const byId = (id) => document.getElementById(id);

function ms(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 10000) return `${(value / 1000).toFixed(1)} s`;
  return `${value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2)} ms`;
}

const count = (value) => Math.round(value).toLocaleString("en");
const share = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(part / whole < 0.0995 ? 1 : 0)}%` : "–");
const ratio = (part, whole, digits = 1) => (whole ? (part / whole).toFixed(digits) : "–");
const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
const sum = (values) => values.reduce((total, value) => total + value, 0);

function quantile(values, at) {
  const sorted = values.filter((value) => value !== null).sort((a, b) => a - b);
  if (!sorted.length) return null;
  const place = (sorted.length - 1) * at, low = Math.floor(place);
  return sorted[low] + (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]) * (place - low);
}

function bytes(value) {
  return value < 10000 ? `${count(value)} B` : `${(value / 1000).toFixed(1)} kB`;
}

// A token as it is shown by itself: white space made visible, its number without a tokenizer.
function tokenText(vocab, token) {
  if (token < 0) return "▪"; // a trace without tokens
  const text = vocab[token];
  if (text === undefined) return `#${token}`;
  return text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/\r/g, "␍") || "∅";
}

function partsBar(parts, label) {
  const total = sum(parts);
  const bar = el("div", { class: "parts", role: "img", "aria-label": `${label}: ${partsText(parts)}` });
  parts.forEach((value, place) => {
    if (!(value > 0.0005 * total)) return;
    const piece = el("i", { class: `part ${PARTS[place][1]}`, title: `${PARTS[place][0]}: ${ms(value)}, ${share(value, total)}` });
    piece.style.flexGrow = value;
    bar.append(piece);
  });
  return bar;
}

function partsText(parts) {
  const total = sum(parts);
  const told = parts.map((value, place) => (value > 0.005 ? `${PARTS[place][0]} ${ms(value)} (${share(value, total)})` : ""));
  return told.filter(Boolean).join(", ");
}

// Every part, also those of no time: that there was none is an answer too.
const some = (value) => value > 0.005;
function partsLegend(parts, divide = 1, unit = "") {
  const total = sum(parts);
  const none = PARTS.filter((_, place) => !some(parts[place])).map(([name]) => name);
  return el("ul", { class: "legend" }, ...PARTS.map(([name, colour, meaning], place) => !some(parts[place]) ? null :
    el("li", { title: meaning },
      el("i", { class: `part ${colour}` }), el("span", {}, name),
      el("b", {}, `${ms(parts[place] / divide)}${unit}`), el("span", { class: "dim" }, share(parts[place], total)))),
    none.length ? el("li", { class: "dim" }, `none: ${none.join(", ")}`) : null);
}
