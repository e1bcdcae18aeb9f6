// Starts the page: theme, printing, the list, the first request.
const THEMES = { auto: "◐ Auto", light: "☀ Light", dark: "☾ Dark" };

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = THEMES[theme];
  byId("theme").setAttribute("aria-label", `Colours: ${theme}. Change them`);
  try { localStorage.setItem("wanspec-theme", theme); } catch { /* no storage for files in some browsers */ }
  repaint();
}

function repaint() {
  if (!shownFall) return;
  shownFall.palette = null;
  shownFall.draw();
}

function storedTheme() {
  try { return localStorage.getItem("wanspec-theme") ?? "auto"; } catch { return "auto"; }
}

byId("title").textContent = INDEX.title;
byId("made").textContent = `${plural(REQUESTS.length, "request")}, made ${INDEX.made} by WANSpec ${INDEX.version}`;
byId("notes").append(...INDEX.notes.map((note) => el("p", { class: "note" }, note)));
byId("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  setTheme(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
});
byId("print").addEventListener("click", () => print());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
let before = "auto";
addEventListener("beforeprint", () => {
  before = document.documentElement.dataset.theme;
  document.documentElement.dataset.theme = "light";
  repaint();
});
addEventListener("afterprint", () => {
  document.documentElement.dataset.theme = before;
  repaint();
});
// Of one request, everything is told in its own part.
document.body.classList.toggle("single", REQUESTS.length === 1);
setTheme(Object.hasOwn(THEMES, storedTheme()) ? storedTheme() : "auto");
setUpList();
const linked = /^#r(\d+)$/.exec(location.hash);
if (linked && REQUESTS[linked[1]]) choose(Number(linked[1]));
applyFilters();
document.documentElement.dataset.ready = performance.now().toFixed(1);
