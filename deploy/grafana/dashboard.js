// Draws dashboards/convserve.json with Prometheus' own API: stat, timeseries, heatmap, bargauge and table.
"use strict";

const SCRAPE_SECONDS = 5;
const POINTS = 180;
const COLOURS = ["#3b8fe0", "#e0803b", "#35a864", "#c94f4f", "#9a6ae0", "#b59a2a", "#d65fa8", "#2fa8a8", "#7f8c99", "#84b53c"];
const SPANS = { "5 minutes": 300, "30 minutes": 1800, "3 hours": 10800, "a day": 86400 };
const HIGH = 176;
const MARGIN = { left: 58, right: 6, top: 8, bottom: 18 };

const byId = (id) => document.getElementById(id);
const chosen = {};

function element(name, text = "", attributes = {}) {
  const made = name.startsWith("svg:") ? document.createElementNS("http://www.w3.org/2000/svg", name.slice(4)) : document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// ---- Queries --------------------------------------------------------------------------------------------------------

async function ask(kind, parameters) {
  const answer = await (await fetch(`../api/v1/${kind}?${new URLSearchParams(parameters)}`)).json();
  if (answer.status !== "success") throw new Error(answer.error);
  return answer.data.result;
}

// The times of all panels: multiples of the step, so that points keep their place from one refresh to the next.
function times() {
  const span = Number(byId("span").value);
  const step = Math.max(SCRAPE_SECONDS, Math.ceil(span / POINTS));
  const end = Math.floor(Date.now() / 1000 / step) * step;
  return { start: end - span, end, step };
}

// Fills in the variables as Grafana does.
function fill(expression, step) {
  let filled = expression.replaceAll("$__rate_interval", `${Math.max(4 * SCRAPE_SECONDS, step + SCRAPE_SECONDS)}s`);
  for (const [name, value] of Object.entries(chosen)) filled = filled.replaceAll(`$${name}`, value);
  return filled;
}

const legend = (format, labels) => format.replace(/{{\s*(\w+)\s*}}/g, (_, label) => labels[label] ?? "");

// The samples of a panel: {name, labels, points: [[time, value]]}. Panels that show only the present get one point.
async function samples(panel, when) {
  const present = panel.type !== "timeseries" && panel.type !== "heatmap";
  const answers = await Promise.all(panel.targets.map((target) => {
    const query = fill(target.expr, when.step);
    return present ? ask("query", { query }) : ask("query_range", { query, ...when });
  }));
  return answers.flatMap((found, number) => found.map((one) => ({
    name: legend(panel.targets[number].legendFormat, one.metric),
    labels: one.metric,
    points: (one.values ?? [one.value]).map(([time, value]) => [time, Number(value)]).filter(([, value]) => Number.isFinite(value)),
  }))).filter((one) => one.points.length > 0);
}

// ---- Panels ---------------------------------------------------------------------------------------------------------

const short = (value) => (value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(3))));

function formatted(value, unit) {
  const scaled = (steps) => {
    const [least, name] = steps.find(([from]) => Math.abs(value) >= from) ?? steps.at(-1);
    return `${short(value / least)} ${name}`;
  };
  if (value === 0 && unit === "s") return "0 s";
  if (unit === "s") return scaled([[86400, "d"], [3600, "h"], [60, "min"], [1, "s"], [1e-3, "ms"], [1e-6, "µs"]]);
  if (unit === "bytes") return scaled([[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]]);
  if (unit === "percentunit") return `${short(100 * value)} %`;
  if (unit === "sci") return value.toExponential(1);
  return short(value) + (unit === "reqps" || unit === "ops" ? "/s" : "");
}

const last = (one) => one.points.at(-1)[1];
const unitOf = (panel) => panel.fieldConfig.defaults.unit;
const clock = (seconds) => new Date(1000 * seconds).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

function stat(panel, found) {
  const value = last(found[0]);
  const steps = panel.fieldConfig.defaults.thresholds?.steps ?? [];
  const colour = steps.filter((step) => step.value === null || value >= step.value).at(-1)?.color;
  return [element("span", formatted(value, unitOf(panel)), colour ? { style: `color: var(--${colour})` } : {})];
}

// An empty drawing with axes, and functions that map a time and a height to it. `rows` are [height from 0 to 1, label].
function drawing(panel, body, when, rows) {
  const width = Math.max(200, body.clientWidth);
  const svg = element("svg:svg", "", { viewBox: `0 0 ${width} ${HIGH}`, role: "img", "aria-label": panel.title });
  const x = (time) => MARGIN.left + (width - MARGIN.left - MARGIN.right) * (time - when.start) / (when.end - when.start);
  const y = (share) => HIGH - MARGIN.bottom - (HIGH - MARGIN.bottom - MARGIN.top) * share;
  for (const [share, label] of rows) {
    svg.append(element("svg:line", "", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(share), y2: y(share), class: "grid" }));
    svg.append(element("svg:text", label, { x: MARGIN.left - 5, y: y(share) + 4, "text-anchor": "end" }));
  }
  for (const [share, anchor] of [[0, "start"], [0.5, "middle"], [1, "end"]]) {
    const time = when.start + share * (when.end - when.start);
    svg.append(element("svg:text", clock(time), { x: x(time), y: HIGH - 3, "text-anchor": anchor }));
  }
  return { svg, x, y };
}

function ceiling(most) {
  if (most <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return power * [1, 2, 2.5, 4, 5, 8, 10].find((step) => step * power >= most * 0.9999);
}

function timeseries(panel, found, body, when) {
  const stacked = panel.fieldConfig.defaults.custom.stacking?.mode === "normal";
  const below = new Map();
  const lines = found.map((one) => one.points.map(([time, value]) => {
    if (!stacked) return [time, value];
    below.set(time, (below.get(time) ?? 0) + value);
    return [time, below.get(time)];
  }));
  const most = ceiling(lines.flat().reduce((greatest, [, value]) => Math.max(greatest, value), 0));
  const rows = [0, 0.25, 0.5, 0.75, 1].map((share) => [share, formatted(share * most, unitOf(panel))]);
  const { svg, x, y } = drawing(panel, body, when, rows);
  const key = element("div", "", { class: "legend" });
  lines.forEach((line, number) => {
    const colour = COLOURS[number % COLOURS.length];
    const far = (at) => at === 0 || line[at][0] - line[at - 1][0] > 1.5 * when.step;
    const path = line.map(([time, value], at) => `${far(at) ? "M" : "L"}${x(time).toFixed(1)} ${y(value / most).toFixed(1)}`).join("");
    svg.append(element("svg:path", "", { d: path, stroke: colour }));
    const entry = element("span", `${found[number].name}: ${formatted(last(found[number]), unitOf(panel))}`);
    entry.prepend(element("i", "", { style: `background: ${colour}` }));
    key.append(entry);
  });
  return [svg, key];
}

// Histogram buckets are cumulative: a bucket's own count is its value minus the value of the bucket below.
function heatmap(panel, found, body, when) {
  const buckets = found.sort((a, b) => Number(a.labels.le.replace("+Inf", "Infinity")) - Number(b.labels.le.replace("+Inf", "Infinity")));
  let lower = new Map();
  const cells = buckets.flatMap((bucket, row) => {
    const here = new Map(bucket.points);
    const own = bucket.points.map(([time, value]) => ({ time, row, value: value - (lower.get(time) ?? 0) }));
    lower = here;
    return own.filter((cell) => cell.value > 0);
  });
  const most = cells.reduce((greatest, cell) => Math.max(greatest, cell.value), 0);
  const every = Math.ceil(buckets.length / 6);
  const named = buckets.map((bucket, row) => [(row + 1) / buckets.length, bucket.labels.le]).filter((_, row) => row % every === 0);
  const { svg, x, y } = drawing(panel, body, when, named);
  for (const { time, row, value } of cells) {
    const [left, upper] = [Math.max(x(time - when.step), MARGIN.left), y((row + 1) / buckets.length)];
    const size = { width: Math.max(0, x(time) - left) + 0.5, height: y(row / buckets.length) - upper };
    svg.append(element("svg:rect", "", { x: left, y: upper, ...size, fill: COLOURS[0], opacity: 0.15 + 0.85 * value / most }));
  }
  return [svg];
}

// A table of texts or ready-made cells, below a head row unless that is empty.
function rows(head, lines) {
  const box = element("div", "", { class: "scroll", tabindex: 0 });
  const table = box.appendChild(element("table"));
  for (const cells of head.length ? [head, ...lines] : lines) {
    const row = table.appendChild(element("tr"));
    for (const cell of cells) row.append(cell instanceof Node ? cell : element(cells === head ? "th" : "td", cell));
  }
  return [box];
}

function bargauge(panel, found) {
  const most = Math.max(...found.map(last));
  const ordered = found.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  return rows([], ordered.map((one) => {
    const bar = element("td", "", { class: "bar" });
    bar.append(element("i", "", { style: `width: ${100 * last(one) / most}%` }));
    return [one.name, bar, formatted(last(one), unitOf(panel))];
  }));
}

function table(panel, found) {
  const hidden = panel.transformations?.[0].options.excludeByName ?? {};
  const names = [...new Set(found.flatMap((one) => Object.keys(one.labels)))].filter((name) => !hidden[name]);
  const lines = found.map((one) => names.map((name) => one.labels[name] ?? "").concat(hidden.Value ? [] : formatted(last(one), unitOf(panel))));
  return rows(hidden.Value ? names : [...names, "value"], lines.sort());
}

const DRAWN = { stat, timeseries, heatmap, bargauge, table };

async function draw(panel, section, when) {
  const body = section.querySelector(".body");
  try {
    const found = await samples(panel, when);
    body.replaceChildren(...(found.length ? DRAWN[panel.type](panel, found, body, when) : []));
    section.dataset.state = found.length ? "data" : "empty";
  } catch (error) {
    body.replaceChildren(String(error));
    section.dataset.state = "error";
  }
}

// ---- The page -------------------------------------------------------------------------------------------------------

// A variable is label_values(SERIES, LABEL). A choice that is no longer in the list falls back to All.
async function offer(variable) {
  const [, series, label] = variable.query.query.match(/^label_values\((.*), (\w+)\)$/);
  const values = (await ask("query", { query: `group by (${label}) (${series})` })).map((one) => one.metric[label]).sort();
  const select = byId(variable.name) ?? byId("choices").appendChild(element("label", `${variable.label} `)).appendChild(element("select", "", { id: variable.name }));
  const before = select.value;
  select.replaceChildren(element("option", "All", { value: variable.allValue }), ...values.map((value) => element("option", value)));
  select.value = values.includes(before) ? before : variable.allValue;
  select.onchange = refresh;
  chosen[variable.name] = select.value;
}

let dashboard;

async function refresh() {
  const when = times();
  try {
    for (const variable of dashboard.templating.list) if (variable.type === "query") await offer(variable);
    const firing = (await Promise.all(dashboard.annotations.list.map((one) => ask("query", { query: one.expr })))).flat();
    byId("alerts").textContent = [...new Set(firing.map((one) => one.metric.alertname))].join(", ");
  } catch (error) {
    byId("alerts").textContent = `Prometheus does not answer: ${error.message}`;
    return;
  }
  const shown = dashboard.panels.filter((panel) => panel.type !== "row");
  await Promise.all(shown.map((panel) => draw(panel, byId(`panel-${panel.id}`), when)));
}

function lay(panel) {
  if (panel.type === "row") return element("h2", panel.title);
  const section = element("section", "", { id: `panel-${panel.id}`, "data-type": panel.type, style: `--wide: ${panel.gridPos.w}` });
  section.append(element("h3", panel.title, { title: panel.description }), element("div", "", { class: "body" }));
  return section;
}

async function start() {
  dashboard = await (await fetch("dashboards/convserve.json")).json();
  document.querySelector("h1").textContent = dashboard.title;
  byId("span").append(...Object.entries(SPANS).map(([name, seconds]) => element("option", name, { value: seconds })));
  byId("span").value = 60 * parseInt(dashboard.time.from.replace("now-", ""), 10);
  byId("span").onchange = refresh;
  document.querySelector("main").append(...dashboard.panels.map(lay));
  await refresh();
  setInterval(() => document.hidden || refresh(), 1000 * parseInt(dashboard.refresh, 10));
}

start();
