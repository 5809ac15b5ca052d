// The choices, the legend and the address; starts the page.

function legend() {
  const classes = state.colour === 'place' ? PLACES.map((place) => `search ${placeName(place)}`)
    : DATA.steps.map((step) => `step ${step}`);
  const shown = classes.length <= CORNERS.length ? classes.map((_, number) => number) : [0, classes.length - 1];
  parts.legend.replaceChildren(...shown.map((number) => {
    const canvas = make('canvas', {width: 28, height: 28, 'aria-hidden': 'true'});
    const pen = canvas.getContext('2d');
    pen.fillStyle = inkOf(number, classes.length);
    drawForm(pen, number, classes.length, 14, 14, 8);
    return make('li', {}, canvas, classes[number]);
  }));
}

function draw() {
  selectShown();
  drawPlot();
  legend();
  drawFigures();
  drawSummaries();
  read();
  parts.count.textContent = `${state.shown.length} of ${SEARCHES.length} searches`;
  parts.table.querySelector('summary').textContent = `The ${plural(state.shown.length, 'search')} as a table`;
  drawTable();
}

const CHOICES = [
  ['step', 'Step', [['', 'all'], ...DATA.steps.map((step) => [String(step), String(step)])]],
  ['place', 'Search number', [['', 'all'], ...PLACES.map((place) => [String(place), placeName(place)])]],
  ['colour', 'Colour', [['place', 'search number'], ['step', 'step']]],
];

function choose(name, value) {
  state[name] = value;
  const chosen = CHOICES.filter(([key, , options]) => state[key] !== options[0][0]).map(([key]) => [key, state[key]]);
  const fragment = new URLSearchParams(chosen);
  history.replaceState(null, '', `${location.href.split('#')[0]}${chosen.length ? `#${fragment}` : ''}`);
  draw();
}

function readAddress() {
  const found = new URLSearchParams(location.hash.slice(1));
  for (const [name, , options] of CHOICES) {
    const wanted = found.get(name);
    state[name] = options.some(([value]) => value === wanted) ? wanted : options[0][0];
    parts[name].value = state[name];
  }
  draw();
}

function start() {
  const fields = CHOICES.map(([name, label, options]) => {
    const [field, list] = select(label, options, (value) => choose(name, value));
    parts[name] = list;
    return field;
  });
  parts.count = make('p', {class: 'quiet', role: 'status'});
  parts.legend = make('ul', {class: 'legend'});
  parts.figures = make('section', {class: 'figures', 'aria-label': 'Figures'});
  parts.summaries = make('div', {class: 'summaries'});
  parts.rows = make('div', {});
  parts.table = folded('', parts.rows);
  parts.table.addEventListener('toggle', drawTable);
  document.querySelector('main').append(
    make('form', {class: 'fields', 'aria-label': 'Selection', submit: (event) => event.preventDefault()}, ...fields),
    parts.count,
    make('div', {class: 'beside'}, make('section', {'aria-label': 'Plot'}, parts.legend, ...makePlot()), parts.figures),
    parts.summaries, parts.table);
  window.addEventListener('hashchange', readAddress);
  readAddress();
}

if (SEARCHES.length) start();
else document.querySelector('main').append(make('p', {}, 'No search with an information gain has been recorded.'));
