// The data that `trajectory_page.py` wrote into the page, the state of the view, and facts about trajectories.

const DATA = JSON.parse(document.getElementById('trajectories').textContent);
const ITEMS = DATA.groups.flatMap((group) => group.trajectories.map((row, place) => ({group, row, place})));
const SEVERAL = DATA.algorithms.length > 1;
const ZERO = 1e-6; // smaller advantages are rounding errors
const state = {shown: ITEMS, item: ITEMS[0], algorithm: DATA.algorithms[0], side: false, compared: false};
const parts = {};

function advantages(turn, algorithm) {
  turn.spread ??= {};
  turn.spread[algorithm] ??= (turn.advantages[algorithm] ?? []).flatMap(([value, count]) => Array(count).fill(value));
  return turn.spread[algorithm];
}

function split(turn, values) {
  const [start, end] = turn.query_span ?? [0, 0];
  return [values.slice(start, end), [...values.slice(0, start), ...values.slice(end)]];
}

function scale(group, algorithm) {
  group.scale ??= {};
  group.scale[algorithm] ??= group.trajectories.flatMap((row) => row.turns)
    .flatMap((turn) => advantages(turn, algorithm)).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return group.scale[algorithm];
}

// The gain that the selected algorithm uses.
function gainOf(turn) {
  return state.algorithm in turn.gain_of ? turn.gain_of[state.algorithm] : turn.gain;
}

function gains(row) {
  return row.turns.map((turn) => gainOf(turn)?.value).filter((value) => value != null);
}

function largestGain(item) {
  return Math.max(-Infinity, ...gains(item.row));
}

function differ(item, other) {
  const names = other === 'any' ? DATA.algorithms : [state.algorithm, other];
  return item.row.turns.some((turn) => turn.tokens.some((_, place) => {
    const signs = names.map((name) => sign(advantages(turn, name)[place] ?? 0));
    return Math.min(...signs) < 0 && Math.max(...signs) > 0;
  }));
}

function searchable(item) {
  item.words ??= [item.group.question, ...item.group.golds, item.row.prediction ?? '', item.group.family,
    ...item.row.turns.map((turn) => turn.tokens.join('')),
    ...item.row.turns.flatMap((turn) => turn.passages.map((found) => DATA.passages[found.passage][1])),
  ].join('\n').toLowerCase();
  return item.words;
}

function verdict(row) {
  return row.correct ? '✓ correct' : '✗ wrong';
}

function given(row) {
  return row.prediction ?? 'no answer';
}
