// What `searches_page.py` wrote into the page, the selected part of it, and its figures.

const DATA = JSON.parse(document.getElementById('searches').textContent);
const ZERO = 1e-6;
const SEARCHES = DATA.searches.map(([step, question, episode, place, gain, correct, outcome, query], index) =>
  ({step, question: DATA.questions[question], episode, place, gain, correct, outcome, query, index}));
const BANDS = SEARCHES.every(({outcome}) => outcome === 0 || outcome === 1);
const PLACES = [...new Set(SEARCHES.map(({place}) => Math.min(place, DATA.last)))].sort((a, b) => a - b);
const state = {step: '', place: '', colour: 'place', shown: SEARCHES, current: null};
const parts = {};

function placeName(place) {
  return place >= DATA.last ? `${DATA.last} and later` : String(place);
}

function figuresOf(step, place) {
  return DATA.figures[`${step},${place}`];
}

function selectShown() {
  state.shown = SEARCHES.filter(({step, place}) => (state.step === '' || step === Number(state.step))
    && (state.place === '' || Math.min(place, DATA.last) === Number(state.place)));
  if (!state.shown.includes(state.current)) state.current = null;
}

function verdict(search) {
  return search.correct ? '✓ correct' : BANDS ? '✗ wrong' : `✗ not exact, outcome ${number(search.outcome, 2)}`;
}

function episodeLink(search) {
  const name = encodeURIComponent(search.episode).replaceAll('%3A', ':').replaceAll('%20', '+');
  return `trajectories.html#trajectory=${name}`;
}

// A value with its interval, as text.
function estimate(found, write) {
  if (!found) return '–';
  const [value, low, high] = found;
  return low == null ? write(value) : `${write(value)} (${write(low)} to ${write(high)})`;
}
