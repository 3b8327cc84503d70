// What all pages share: each figure is a chart of Vega-Lite, drawn into its place in the colours of the reader's choice,
// and again when they, the width, or what a control says change. A page's script may set `prepare[name]`, which gives
// the chart its data and sizes, and `drawn[name]`, which is given the view of each drawing.
"use strict";
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const figures = read("figures"), themes = read("themes");
let pageData = read("data");
const prepare = {}, drawn = {};
const dark = matchMedia("(prefers-color-scheme: dark)");
const place = (name) => document.querySelector(`[data-figure="${name}"]`);
const value = (id) => document.getElementById(id).value;
const turns = {};  // of each figure: the newest drawing wins

async function draw(name) {
  const target = place(name), turn = (turns[name] = (turns[name] || 0) + 1);
  const spec = structuredClone(figures[name]);
  // The width that there is, not the one that the last drawing has stretched the page to.
  const width = Math.floor(target.closest("figure").getBoundingClientRect().width);
  if (prepare[name]) prepare[name](spec, width);
  const box = document.createElement("div");
  box.className = "figure";
  box.style.width = width + "px";
  box.style.position = "absolute";
  box.style.visibility = "hidden";
  target.parentElement.append(box);
  const result = await vegaEmbed(box, spec, {
    config: themes[dark.matches ? "dark" : "light"],
    renderer: spec.usermeta?.renderer ?? "svg",
    actions: { export: true, source: false, compiled: false, editor: false },
    downloadFileName: `${document.title} ${name}`,
  });
  if (turn !== turns[name]) {
    result.finalize();
    box.remove();
    return;
  }
  if (target.drawn) target.drawn.finalize();
  box.removeAttribute("style");
  target.replaceChildren(box);
  target.drawn = result;
  if (drawn[name]) drawn[name](result.view);
  target.dataset.drawn = turn;
}

const drawAll = () => Promise.all(Object.keys(figures).filter(place).map(draw));

// A control draws these figures again.
function control(id, ...names) {
  document.getElementById(id).addEventListener("change", () => names.forEach(draw));
}

function start() {
  let width = innerWidth;
  dark.addEventListener("change", drawAll);
  addEventListener("resize", () => {
    if (innerWidth !== width) drawAll();
    width = innerWidth;
  });
  drawAll();
}

// Every encoding in a chart of several layers: visit(encoding).
function encodings(spec, visit) {
  if (spec.encoding) visit(spec.encoding);
  for (const part of [...(spec.layer ?? []), ...(spec.spec ? [spec.spec] : [])]) encodings(part, visit);
}

// float32 numbers from base64
function floats(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}
