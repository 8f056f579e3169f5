// Draws the readings of one sensor: a chart per unit, stretches that were lost shaded, extremes kept by the server.

const box = document.getElementById("charts");
const words = JSON.parse(box.dataset.words);
const language = document.documentElement.lang;
const digits = [0, 1, 2, 3].map((places) => new Intl.NumberFormat(language, { maximumFractionDigits: places }));
// Three decimals at most, five digits in all: as the server writes numbers.
const fine = new Intl.NumberFormat(language, { maximumFractionDigits: 6 }); // degrees: 0.0001 is eleven metres
const written = (value, unit) => (unit === "°" ? fine : number).format(value);
const number = { format: (value) => digits[Math.max(0, Math.min(3, 4 - String(Math.trunc(Math.abs(value))).length))].format(value) };
const percent = new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 1 });
const served = { now: Number(box.dataset.nowMs), at: performance.now() };
const NEWEST = 20;
const HEIGHT = 240;

const format = (options) => {
  const made = new Intl.DateTimeFormat(language, { hourCycle: "h23", ...options });
  return (ms) => made.format(new Date(ms));
};
const clock = format({ hour: "2-digit", minute: "2-digit" });
const seconds = format({ hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = format({ day: "numeric", month: "short" });
const full = format({ day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" });

const charts = [...box.querySelectorAll(".chart")].map((card) => ({
  card,
  unit: card.dataset.unit,
  series: [...card.querySelectorAll(".legend li")].map((item) => ({
    item, key: item.dataset.key, label: item.dataset.label, periodMs: Number(item.dataset.periodMs),
  })),
  plot: null,
}));

const view = { spanS: Number(box.dataset.spanS), from: null, to: null, answer: null, timer: 0 };
if (box.dataset.from) [view.from, view.to] = [Date.parse(box.dataset.from), Date.parse(box.dataset.to)];

const nowMs = () => served.now + performance.now() - served.at;
const stretch = () => {
  if (view.from !== null) return { from: view.from, to: view.to };
  const to = nowMs();
  return { from: to - view.spanS * 1000, to };
};
const dataAddress = (path, { from, to }, points) => {
  const asked = new URLSearchParams();
  for (const chart of charts) for (const one of chart.series) asked.append("series", one.key);
  asked.set("from", new Date(from).toISOString());
  asked.set("to", new Date(to).toISOString());
  asked.set("max_points", String(points));
  return `${path}?${asked}`;
};

async function load() {
  clearTimeout(view.timer);
  const asked = stretch();
  const points = Math.max(400, Math.min(2000, Math.round(box.clientWidth * Math.min(2, devicePixelRatio || 1))));
  let again = view.from === null ? (view.spanS <= 3600 ? 5000 : 30000) : 0;
  try {
    const response = await fetch(dataAddress("/data/readings", asked, points), { headers: { Accept: "application/json" } });
    if (response.status === 401) throw new Error(words.ended);
    if (!response.ok) throw new Error(words.failed);
    const answer = await response.json();
    if (view.from !== null && asked.from !== view.from) return;
    show(answer, asked);
    box.querySelector(".csv").href = dataAddress("/data/readings.csv", asked, points);
  } catch (error) {
    note(error instanceof TypeError ? words.failed : error.message);
    again = again || 10000;
  }
  if (again) view.timer = setTimeout(() => (document.hidden ? wait() : load()), again);
}
function wait() {
  document.addEventListener("visibilitychange", () => load(), { once: true });
}

function note(text) {
  const line = box.querySelector(".note");
  line.textContent = text;
  line.hidden = !text;
}

function show(answer, asked) {
  view.answer = answer;
  const byKey = new Map(answer.series.map((one) => [one.key, one]));
  for (const chart of charts) draw(chart, byKey, asked);
  newest(byKey, answer.resolution !== "raw");
  lost(answer.gaps);
  note(answer.series.some((one) => one.times_ms.length) ? "" : words.nothing);
}

// --- one chart -------------------------------------------------------------------------------------

const numeric = (value) => (typeof value === "number" ? value : typeof value === "boolean" ? Number(value) : null);

/** [times in s, columns…] with a break wherever the series was silent: a line is drawn only where readings are. */
function columns(one, periodMs, stepMs) {
  const stepped = one.values === undefined;
  const sources = stepped ? [one.min, one.max, one.mean] : [one.values];
  const longest = stepped ? Math.max(2.5 * stepMs, 3 * periodMs) : Math.max(3 * periodMs, 1500);
  const times = [], made = sources.map(() => []);
  one.times_ms.forEach((at, i) => {
    if (i && at - one.times_ms[i - 1] > longest) {
      times.push(one.times_ms[i - 1] / 1000 + 0.001);
      made.forEach((column) => column.push(null));
    }
    if (times.length && at / 1000 <= times.at(-1)) return;
    times.push(at / 1000);
    sources.forEach((source, c) => made[c].push(numeric(source[i])));
  });
  return [times, ...made];
}

function stepOf(resolution) {
  const found = /^(\d+)([smhd])$/.exec(resolution);
  return found ? Number(found[1]) * { s: 1e3, m: 6e4, h: 36e5, d: 864e5 }[found[2]] : 0;
}

function draw(chart, byKey, asked) {
  const style = getComputedStyle(box);
  const colour = (name) => style.getPropertyValue(name).trim();
  const stepped = view.answer.resolution !== "raw";
  const stepMs = stepOf(view.answer.resolution);
  const tables = [], series = [{}], bands = [];
  chart.series.forEach((one, i) => {
    const found = byKey.get(one.key);
    known(one, found);
    tables.push(columns(found, one.periodMs, stepMs));
    const stroke = colour(`--line-${(i % 6) + 1}`);
    const points = { size: 4, fill: stroke };
    if (!stepped) return series.push({ label: one.label, stroke, width: 1.8, points });
    const at = series.length;
    series.push({ label: `${one.label} min`, stroke: `${stroke}40`, width: 1, points: { show: false } });
    series.push({ label: `${one.label} max`, stroke: `${stroke}40`, width: 1, points: { show: false } });
    series.push({ label: one.label, stroke, width: 1.8, points });
    bands.push({ series: [at + 1, at], fill: `${stroke}2e` });
  });
  const shape = JSON.stringify([stepped, colour("--line-1")]);
  const data = uPlot.join(tables);
  if (chart.plot && chart.shape === shape) {
    chart.asked = asked;
    chart.plot.setData(data, false);
    chart.plot.setScale("x", { min: asked.from / 1000, max: asked.to / 1000 });
    return;
  }
  chart.plot?.destroy();
  Object.assign(chart, { shape, asked, stepped });
  chart.plot = new uPlot(options(chart, series, bands, colour), data, chart.card.querySelector(".plot"));
}

function options(chart, series, bands, colour) {
  const axis = { stroke: colour("--muted"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { stroke: colour("--grid"), width: 1 },
    font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif" };
  const host = chart.card.querySelector(".plot");
  return {
    width: host.clientWidth, height: HEIGHT, series, bands,
    legend: { show: false },
    cursor: { sync: { key: "sensor" }, drag: { x: true, y: false, setScale: false }, points: { size: 7 }, bind: { dblclick: () => unzoom } },
    scales: {
      x: { time: true, range: () => [chart.asked.from / 1000, chart.asked.to / 1000] },
      y: { range: (_, low, high) => (low === null ? [0, 1] : uPlot.rangeNum(low, high, 0.1, true)) },
    },
    axes: [
      { ...axis, space: 70, size: 30, values: (_, splits, __, ___, step) => splits.map((s) => tick(s * 1000, step)) },
      { ...axis, size: 58, label: chart.unit || undefined, labelSize: chart.unit ? 18 : 0, values: (_, splits) => splits.map((v) => number.format(v)) },
    ],
    hooks: {
      drawClear: [(plot) => shade(plot, colour("--lost"), colour("--lost-edge"))],
      setCursor: [(plot) => readout(chart, plot)],
      setSelect: [(plot) => zoom(plot)],
    },
  };
}

function tick(ms, step) {
  if (step >= 86400 || new Date(ms).getHours() + new Date(ms).getMinutes() === 0) return day(ms);
  return step < 60 ? seconds(ms) : clock(ms);
}

const gapsShown = () => {
  const seen = new Map();
  for (const gap of view.answer?.gaps ?? []) seen.set(`${gap.from_ms} ${gap.to_ms} ${gap.reason}`, gap);
  return [...seen.values()];
};

function shade(plot, fill, edge) {
  const { ctx } = plot, { top, height, left, width } = plot.bbox;
  ctx.save();
  for (const gap of gapsShown()) {
    const from = Math.max(left, plot.valToPos(gap.from_ms / 1000, "x", true));
    const to = Math.min(left + width, plot.valToPos(gap.to_ms / 1000, "x", true));
    if (to < left || from > left + width) continue;
    ctx.fillStyle = fill;
    ctx.fillRect(from, top, Math.max(2, to - from), height);
    ctx.fillStyle = edge;
    ctx.fillRect(from, top, Math.max(2, to - from), 3);
  }
  ctx.restore();
}

function readout(chart, plot) {
  const line = chart.card.querySelector(".readout");
  const { left, idx } = plot.cursor;
  if (left === undefined || left < 0) return void (line.textContent = "\u00a0");
  const at = plot.posToVal(left, "x") * 1000;
  const gap = gapsShown().find((one) => one.from_ms <= at && at <= one.to_ms);
  if (gap) return void (line.textContent = lostText(gap));
  if (idx === null || idx === undefined) return void (line.textContent = full(at));
  const parts = [full(plot.data[0][idx] * 1000)];
  plot.series.forEach((one, i) => {
    const value = i ? plot.data[i][idx] : null;
    if (value !== null && value !== undefined) parts.push(`${one.label} ${written(value, chart.unit)} ${chart.unit}`.trim());
  });
  line.textContent = parts.join(" · ");
}

function zoom(plot) {
  if (plot.select.width < 5) return;
  const [a, b] = [plot.select.left, plot.select.left + plot.select.width].map((x) => plot.posToVal(x, "x") * 1000);
  plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  if (b - a < 2000) return;
  [view.from, view.to] = [Math.round(a), Math.round(b)];
  const asked = new URLSearchParams({ from: new Date(view.from).toISOString(), to: new Date(view.to).toISOString() });
  history.replaceState(null, "", `?${asked}`);
  document.querySelectorAll(".ranges [aria-current]").forEach((one) => one.removeAttribute("aria-current"));
  load();
}

function unzoom() {
  if (view.from === null) return;
  location.search = box.dataset.range ? `?range=${box.dataset.range}` : "";
}

// --- beside the charts -----------------------------------------------------------------------------

function known(one, found) {
  const { resolution } = view.answer;
  const each = resolution === "raw" ? words.raw : `${words.each} ${resolution}`;
  const facts = [`${words.coverage} ${percent.format(found.coverage)}`, `${words.clock} ± ${number.format(found.clock_err_ms)} ms`, each];
  one.item.querySelector(".known").textContent = facts.join(" · ");
  const last = found.values?.at(-1) ?? found.last?.at(-1);
  const unit = one.item.closest(".chart").dataset.unit;
  if (typeof last === "number") one.item.querySelector(".value").textContent = `${written(last, unit)} ${unit}`.trim();
}

function row(cells, kind) {
  const made = document.createElement("tr");
  for (const text of cells) {
    const cell = document.createElement(kind);
    cell.textContent = text;
    if (kind === "th") cell.scope = "col";
    made.append(cell);
  }
  return made;
}

function newest(byKey, stepped) {
  const rows = [];
  for (const chart of charts) for (const one of chart.series) {
    const found = byKey.get(one.key), first = Math.max(0, found.times_ms.length - NEWEST);
    for (let i = first; i < found.times_ms.length; i++) rows.push([found.times_ms[i], one.label, found, i, chart.unit]);
  }
  rows.sort((a, b) => b[0] - a[0]);
  const shown = (value, unit) => (typeof value === "number" ? written(value, unit) : value === null ? "–" : String(value));
  const quality = (word) => (word === "good" ? words.good : words.qualities[word] ?? word);
  const when = (at) => (day(at) === day(nowMs()) ? seconds(at) : full(at));
  const cells = rows.slice(0, NEWEST).map(([at, label, found, i, unit]) => stepped
    ? [when(at), label, shown(found.min[i], unit), shown(found.mean[i], unit), shown(found.max[i], unit), shown(found.count[i])]
    : [when(at), label, shown(found.values[i], unit), quality(found.quality[i])]);
  const head = stepped ? [words.time, "", words.min, words.mean, words.max, words.count] : [words.time, "", words.value, words.quality];
  const table = box.querySelector(".newest");
  const titles = row(head.map((text) => text || "\u00a0"), "th");
  table.tHead.replaceChildren(titles);
  table.tBodies[0].replaceChildren(...cells.map((some) => row(some, "td")));
}

const lostText = (gap) => `${words.lost} ${full(gap.from_ms)} – ${full(gap.to_ms)}: ${words.reasons[gap.reason] ?? gap.reason}`;

function lost() {
  const gaps = gapsShown().sort((a, b) => b.from_ms - a.from_ms);
  const items = gaps.slice(0, NEWEST).map((gap) => {
    const item = document.createElement("li"), small = document.createElement("small");
    item.textContent = words.reasons[gap.reason] ?? gap.reason;
    small.textContent = ` ${full(gap.from_ms)} – ${full(gap.to_ms)}`;
    item.append(small);
    return item;
  });
  box.querySelector(".lost").replaceChildren(...items);
  box.querySelector(".nothing-lost").hidden = items.length > 0;
}

new ResizeObserver(() => {
  for (const { plot, card } of charts) plot?.setSize({ width: card.querySelector(".plot").clientWidth, height: HEIGHT });
}).observe(box);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", load);
load();
