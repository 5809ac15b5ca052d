// Draws the charts of a page: each `figure.chart` names its data, which `charts.py` wrote as JSON.
"use strict";
const charts = (() => {
  const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3], [5, 2], [14, 4], [2, 6], [8, 3, 2, 3, 2, 3]];
  const COLOURS = 8;
  const HEIGHT = 240;
  const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6];
  // Keyed by title, so that they survive when the live view redraws a chart.
  const switchedOff = new Map(); // styles of hidden lines
  const zoomed = new Map(); // first and last visible step
  let drawn = [];

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const variable = (style) => `--series-${style % COLOURS}`;
  // After the last colour the dashes shift, so that 64 lines all look different.
  const dash = (style) => DASHES[(style + Math.floor(style / COLOURS)) % DASHES.length];
  const shown = (value) => (value == null ? "–" : String(Number(value.toPrecision(4))));

  const tick = (value) => (Math.abs(value) < 1e-3 && value ? value.toExponential(0) : String(Number(value.toPrecision(4))));

  function element(name, attributes = {}, ...children) {
    const svg = name === "svg" || name === "line" || name === "rect";
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  // Cumulative sums over the lines; missing values count as 0.
  function stacked(lines) {
    const sums = [];
    return lines.map((line) => line.values.map((value, i) => (sums[i] = (sums[i] ?? 0) + (value ?? 0))));
  }

  function lineOptions(line) {
    const ink = colour(variable(line.style));
    return {
      label: line.label,
      stroke: line.faint ? ink + "58" : ink,
      width: line.faint ? 1 : 2,
      dash: line.faint ? [] : dash(line.style),
      spanGaps: line.sparse,
      points: { show: !line.faint && (line.sparse || line.values.length < 3), size: 7, fill: colour("--paper") },
    };
  }

  function bandsOf(spec) {
    if (spec.stack) {
      return spec.lines.map((line, i) => ({ series: [i + 1, i], fill: colour(variable(line.style)) + "38" })).slice(1);
    }
    return spec.bands.map(([low, high]) => ({
      series: [high + 1, low + 1],
      fill: colour(variable(spec.lines[low].style)) + "28",
    }));
  }

  function options(spec, width, onCursor) {
    const axis = {
      stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 },
      ticks: { stroke: colour("--line"), width: 1 }, font: "12px system-ui", labelFont: "12px system-ui",
    };
    const lines = spec.lines.map((line) => lineOptions(line));
    if (spec.stack) lines[0].fill = colour(variable(spec.lines[0].style)) + "38";
    return {
      width, height: HEIGHT,
      scales: { x: { time: false, range: (u, low, high) => spread(spec, low, high) }, y: { range: (u, low, high) => bounds(spec, low, high) } },
      axes: [
        { ...axis, label: "step", labelSize: 18, size: 32, incrs: WHOLE },
        { ...axis, label: spec.unit, labelSize: 18, size: 56, values: (u, ticks) => ticks.map(tick) },
      ],
      legend: { show: false },
      cursor: {
        y: false,
        sync: { key: "step", scales: ["x", null] },
        points: { size: 8, fill: (u, place) => colour(variable(spec.lines[place - 1].style)) },
      },
      bands: bandsOf(spec),
      series: [{}, ...lines],
      hooks: { setCursor: [(u) => onCursor(u.cursor.idx)] },
    };
  }

  // A single step is centred, and the axis shows no other step.
  function spread(spec, low, high) {
    const [first] = spec.steps;
    return spec.steps.length === 1 ? [first - 0.5, first + 0.5] : [low, high];
  }

  // The y axis always includes 0, and has room for lines at the ends of a fixed range.
  function bounds(spec, low, high) {
    if (spec.range) {
      const margin = (spec.range[1] - spec.range[0]) * 0.03;
      return [spec.range[0] - margin, spec.range[1] + margin];
    }
    [low, high] = [Math.min(low ?? 0, 0), Math.max(high ?? 0, 0)];
    if (low === high) return [0, spec.least || 1];
    if (-low < spec.least / 100) low = 0; // rounding
    high = Math.max(high, low + spec.least);
    const room = (high - low) * 0.06;
    return [low === 0 ? 0 : low - room, high === 0 ? 0 : high + room];
  }

  function sample(line, filled) {
    const ink = `var(${variable(line.style)})`;
    const picture = element("svg", { width: 34, height: 12, "aria-hidden": "true" });
    if (filled) picture.append(element("rect", { width: 34, height: 12, fill: ink, opacity: 0.22 }));
    const y = filled ? 1 : 6;
    picture.append(
      element("line", { x1: 0, x2: 34, y1: y, y2: y, stroke: ink, "stroke-width": 2, "stroke-dasharray": dash(line.style) })
    );
    return picture;
  }

  function legend(spec, name, hidden, toggle) {
    const list = element("ul", { class: "legend" });
    const values = new Map();
    spec.lines.forEach((line, i) => {
      if (line.faint || line.zero) return;
      const value = element("span", { class: "value" });
      const pressed = String(!hidden.has(line.style));
      const button = element("button", { type: "button", id: `${name}-key-${line.style}`, "aria-pressed": pressed });
      button.append(sample(line, spec.stack), element("span", {}, line.label), value);
      button.addEventListener("click", () => {
        const on = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(on));
        toggle(line.style, on);
      });
      values.set(i, value);
      list.append(element("li", {}, button));
    });
    return { list, values };
  }

  function table(spec, id) {
    const head = element("tr", {}, element("th", { scope: "col" }, "step"));
    for (const line of spec.lines) head.append(element("th", { scope: "col" }, line.label));
    const body = element("tbody");
    spec.steps.forEach((step, i) => {
      const row = element("tr", {}, element("th", { scope: "row" }, String(step)));
      for (const line of spec.lines) row.append(element("td", {}, shown(line.values[i])));
      body.append(row);
    });
    const region = { class: "numbers", id, tabindex: "0", role: "region", "aria-label": `${spec.title}: values` };
    return element("div", region, element("table", {}, element("thead", {}, head), body));
  }

  function draw(figure) {
    const spec = JSON.parse(document.getElementById(figure.dataset.chart).textContent);
    const numbers = figure.querySelector("details");
    const fill = () => {
      if (numbers.open && !numbers.querySelector(".numbers")) numbers.append(table(spec, `${figure.dataset.chart}-table`));
    };
    numbers.addEventListener("toggle", fill);
    fill();
    const plot = figure.querySelector(".plot");
    if (!plot) return { build() {}, stop() {} }; // every line is 0
    const at = figure.querySelector(".at");
    if (!switchedOff.has(spec.title)) switchedOff.set(spec.title, new Set());
    const hidden = switchedOff.get(spec.title);
    let chart = null;

    const cursor = (index) => {
      at.textContent = index == null ? "" : `step ${spec.steps[index]}`;
      for (const [i, value] of keys.values) value.textContent = index == null ? "" : shown(spec.lines[i].values[index]);
    };
    const toggle = (style, on) => {
      hidden[on ? "delete" : "add"](style);
      build();
    };
    const keys = legend(spec, figure.dataset.chart, hidden, toggle);
    figure.querySelector(".legend-place").replaceChildren(keys.list);

    function remove() {
      if (!chart) return;
      const { min, max } = chart.scales.x;
      const whole = spread(spec, spec.steps[0], spec.steps.at(-1));
      if (min === whole[0] && max === whole[1]) zoomed.delete(spec.title);
      else zoomed.set(spec.title, { min, max });
      chart.destroy();
      chart = null;
    }

    function build() {
      remove();
      const kept = { ...spec, lines: spec.lines.filter((line) => !line.zero && !hidden.has(line.style)) };
      kept.bands = spec.bands
        .map((pair) => pair.map((i) => kept.lines.indexOf(spec.lines[i])))
        .filter((pair) => !pair.includes(-1));
      const values = spec.stack ? stacked(kept.lines) : kept.lines.map((line) => line.values);
      if (!kept.lines.length) return;
      chart = new uPlot(options(kept, plot.clientWidth, cursor), [spec.steps, ...values], plot);
      if (zoomed.has(spec.title)) chart.setScale("x", zoomed.get(spec.title));
    }
    build();
    const observer = new ResizeObserver(() => {
      if (chart && plot.clientWidth && plot.clientWidth !== chart.width) {
        chart.setSize({ width: plot.clientWidth, height: HEIGHT });
      }
    });
    observer.observe(plot);
    return { build, stop: () => (observer.disconnect(), remove()) };
  }

  function drawAll() {
    for (const one of drawn) one.stop();
    drawn = [...document.querySelectorAll("figure.chart")].map(draw);
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach((one) => one.build()));
  drawAll();
  return { drawAll };
})();
