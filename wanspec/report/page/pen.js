// Helpers of canvases.
const FACE = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
const FONT = { small: `11px ${FACE}`, label: `12px ${FACE}`, text: `12.5px ${FACE}` };

function readPalette() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(COLOURS.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function prepare(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  return pen;
}

function rounded(pen, x, y, width, height, radius) {
  pen.beginPath();
  pen.roundRect(x, y, width, height, Math.min(radius, width / 2));
  pen.fill();
}

function clipped(pen, text, width) {
  const letters = [...text];
  while (letters.length > 1 && pen.measureText(letters.join("") + "…").width > width) letters.pop();
  const short = letters.join("");
  return short === text ? text : pen.measureText(short + "…").width <= width ? `${short}…` : "";
}

function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((each) => each * power).find((step) => step >= least);
}

function barLabel(item) {
  if (item.kind === "verify") return item.round.drafted.length ? `${item.round.accepted}/${item.round.drafted.length}` : "";
  if (item.kind === "pass") return `${new Map(item.of.values).get("leaves") ?? ""}`;
  return "";
}
