// The scatter plot: a canvas, the search that is pointed at, and its reading below.

const HEIGHT = 420, MARGIN = {left: 64, right: 16, top: 16, bottom: 44}, REACH = 14; // pixels
const plot = {points: [], width: 0};

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// Of the same search always the same, in -0.5 to 0.5, so that points keep their places.
function jitter(index) {
  const mixed = Math.imul(index + 1, 0x9E3779B1) >>> 0;
  return ((mixed ^ (mixed >>> 15)) >>> 0) % 9973 / 9973 - 0.5;
}

function classOf(search) {
  return state.colour === 'place' ? PLACES.indexOf(Math.min(search.place, DATA.last)) : DATA.steps.indexOf(search.step);
}

// Few classes differ in colour and in form; many steps are a scale from one colour to another.
function inkOf(number, count) {
  if (count <= CORNERS.length) return colour(`--series-${number}`);
  const [early, late] = ['--early', '--late'].map((name) =>
    colour(name).match(/[0-9a-f]{2}/giu).map((part) => parseInt(part, 16)));
  const mixed = early.map((part, place) => Math.round(part + (late[place] - part) * number / (count - 1)));
  return `rgb(${mixed.join(', ')})`;
}

// Circle, square, triangle, diamond, triangle upside down, cross; corners in units of the radius.
const CORNERS = [
  null, [[-1, -1], [1, -1], [1, 1], [-1, 1]], [[0, -1.3], [1.3, 1], [-1.3, 1]],
  [[0, -1.4], [1.4, 0], [0, 1.4], [-1.4, 0]], [[0, 1.3], [1.3, -1], [-1.3, -1]],
  [[-1.4, -0.5], [-0.5, -0.5], [-0.5, -1.4], [0.5, -1.4], [0.5, -0.5], [1.4, -0.5],
    [1.4, 0.5], [0.5, 0.5], [0.5, 1.4], [-0.5, 1.4], [-0.5, 0.5], [-1.4, 0.5]],
];

function drawForm(pen, number, count, x, y, radius) {
  const corners = count <= CORNERS.length ? CORNERS[number] : null;
  pen.beginPath();
  if (corners) for (const [right, down] of corners) pen.lineTo(x + radius * right, y + radius * down);
  else pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
}

function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) found.push(Number(value.toPrecision(6)));
  return found;
}

function scales() {
  const all = SEARCHES.map(({gain}) => gain);
  const low = all.reduce((a, b) => Math.min(a, b), 0), high = all.reduce((a, b) => Math.max(a, b), 0);
  const room = (high - low || 1) * 0.03;
  const inner = [plot.width - MARGIN.left - MARGIN.right, HEIGHT - MARGIN.top - MARGIN.bottom];
  const [least, most] = [low - room, high + room];
  return {
    least, most,
    x: (gain) => MARGIN.left + inner[0] * (gain - least) / (most - least),
    // Two bands of 40% of the height, or the outcome itself with a little jitter.
    y: (outcome, spread) =>
      MARGIN.top + inner[1] * (1 - (0.22 + 0.56 * outcome) + spread * (BANDS ? 0.4 : 0.06)),
  };
}

function drawAxes(pen, {least, most, x, y}) {
  pen.strokeStyle = colour('--line');
  pen.fillStyle = colour('--quiet');
  pen.font = '12px system-ui, sans-serif';
  pen.lineWidth = 1;
  pen.textAlign = 'center';
  for (const value of ticks(least, most, Math.max(2, plot.width / 110))) {
    pen.beginPath();
    pen.moveTo(x(value), MARGIN.top);
    pen.lineTo(x(value), HEIGHT - MARGIN.bottom);
    pen.lineWidth = value === 0 ? 2 : 1;
    pen.stroke();
    pen.fillText(signed(value, 3).replace(/\.?0+$/u, '') || '0', x(value), HEIGHT - MARGIN.bottom + 16);
  }
  pen.fillText('information gain, nats', MARGIN.left + (plot.width - MARGIN.left - MARGIN.right) / 2, HEIGHT - 8);
  pen.textAlign = 'right';
  const names = BANDS ? [[0, 'wrong'], [1, 'correct']] : [0, 0.25, 0.5, 0.75, 1].map((value) => [value, String(value)]);
  for (const [outcome, name] of names) pen.fillText(name, MARGIN.left - 10, y(outcome, 0) + 4);
}

// The mean of each band and its interval.
function drawMeans(pen, {x, y}) {
  const found = figuresOf(state.step, state.place);
  if (!BANDS || !found) return;
  pen.strokeStyle = pen.fillStyle = colour('--ink');
  for (const [outcome, name] of [[0, 'wrong'], [1, 'correct']]) {
    if (!found[name]) continue;
    const [value, low, high] = found[name], [top, bottom] = [y(outcome, 0.5), y(outcome, -0.5)];
    pen.lineWidth = 2;
    pen.beginPath();
    pen.moveTo(x(value), top);
    pen.lineTo(x(value), bottom);
    pen.stroke();
    if (low == null) continue;
    pen.globalAlpha = 0.12;
    pen.fillRect(x(low), bottom, x(high) - x(low), top - bottom);
    pen.globalAlpha = 1;
  }
}

function drawPlot() {
  const canvas = parts.canvas, ratio = window.devicePixelRatio || 1;
  plot.width = parts.plot.clientWidth;
  canvas.width = plot.width * ratio;
  canvas.height = HEIGHT * ratio;
  const pen = canvas.getContext('2d');
  pen.scale(ratio, ratio);
  const scale = scales();
  drawAxes(pen, scale);
  const count = state.colour === 'place' ? PLACES.length : DATA.steps.length;
  const inks = Array.from({length: count}, (_, number) => inkOf(number, count));
  plot.points = state.shown.map((search) =>
    ({search, x: scale.x(search.gain), y: scale.y(search.outcome, jitter(search.index))}));
  pen.globalAlpha = state.shown.length > 1500 ? 0.45 : 0.7;
  for (const {search, x, y} of plot.points) {
    const number = classOf(search);
    pen.fillStyle = inks[number];
    drawForm(pen, number, count, x, y, 3.2);
  }
  pen.globalAlpha = 1;
  drawMeans(pen, scale);
  markPoint();
}

// The ring around the search that is pointed at is an element, so that moving it redraws nothing.
function markPoint() {
  const point = plot.points.find(({search}) => search === state.current);
  parts.ring.hidden = !point;
  if (!point) return;
  parts.ring.style.left = `${point.x}px`;
  parts.ring.style.top = `${point.y}px`;
}

function nearest(event) {
  const box = parts.canvas.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  let best = null, least = REACH ** 2;
  for (const point of plot.points) {
    const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
    if (distance < least) [best, least] = [point.search, distance];
  }
  return best;
}

function point(search) {
  if (!search || search === state.current) return;
  state.current = search;
  markPoint();
  read();
}

function read() {
  const search = state.current;
  parts.reading.replaceChildren(...(search ? [
    make('p', {}, make('strong', {}, search.query || '(empty query)')),
    make('p', {}, search.question.text, ' ', make('span', {class: search.correct ? 'good' : 'bad'}, verdict(search))),
    make('p', {class: 'quiet'}, `gain ${nats(search.gain)} nats · search ${search.place} of its episode`
      + ` · step ${search.step} · accepted: ${search.question.golds}`),
    make('p', {}, make('a', {href: episodeLink(search)}, 'Open the episode')),
  ] : [make('p', {class: 'quiet'}, 'Point at a search, or focus the plot and press ← →, to show its query; '
    + 'click or press Enter to open its episode.')]));
}

// Left and right move through the searches in order of their gain.
function onPlotKey(event) {
  if (event.key === 'Enter' && state.current) location.href = episodeLink(state.current);
  const by = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1}[event.key];
  if (!by || !state.shown.length) return;
  const order = [...state.shown].sort((a, b) => a.gain - b.gain || a.index - b.index);
  const place = state.current ? order.indexOf(state.current) + by : 0;
  point(order[Math.max(0, Math.min(order.length - 1, place))]);
  event.preventDefault();
}

function makePlot() {
  parts.canvas = make('canvas', {'aria-hidden': 'true'});
  parts.ring = make('span', {class: 'ring', hidden: true});
  parts.plot = make('div', {
    class: 'plot', tabindex: 0, role: 'group', keydown: onPlotKey,
    'aria-label': 'Information gain against outcome. Arrow keys move through the searches in order of gain, Enter '
      + 'opens the episode. The table below has the same values.',
    pointermove: (event) => event.pointerType !== 'touch' && point(nearest(event)),
    click: (event) => {
      const found = nearest(event);
      if (!found) return;
      const touched = event.pointerType === 'touch';
      point(found);
      if (!touched) location.href = episodeLink(found);
    },
  }, parts.canvas, parts.ring);
  parts.reading = make('div', {class: 'reading', role: 'status'});
  new ResizeObserver(() => parts.plot.clientWidth !== plot.width && drawPlot()).observe(parts.plot);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', drawPlot);
  return [parts.plot, parts.reading];
}
