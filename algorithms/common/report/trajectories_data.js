// What `trajectory_data.py` wrote into the page, the state of the view, and facts about trajectories. The turns, their
// texts and passages are compressed: they are there after unpack().

const DATA = JSON.parse(document.getElementById('trajectories').textContent);
const ITEMS = DATA.groups.flatMap((group) => group.trajectories.map((row, place) => ({group, row, place})));
const SEVERAL = DATA.algorithms.length > 1;
const ZERO = 1e-6; // smaller advantages are rounding errors
const state = {shown: ITEMS, item: ITEMS[0], algorithm: DATA.algorithms[0], view: 'turns', shared: false, versus: '',
  through: null};
const parts = {};

// A turn; its tokens and log-probs are read when they are needed.
class Turn {
  constructor(written) {
    Object.assign(this, written);
  }

  get tokens() {
    return this.token_texts ??= JSON.parse(this.token_ids).map((id) => DATA.vocabulary[id]);
  }

  get logprobs() {
    return this.logprob_values ??= JSON.parse(this.logprob_numbers);
  }
}

// The text that was compressed. Reading the chunks takes half as long as `new Response(stream).text()` does in Chromium.
async function inflated(bytes) {
  const stream = new DecompressionStream('deflate'), decoder = new TextDecoder();
  const writer = stream.writable.getWriter(), reader = stream.readable.getReader();
  for (const written of [writer.write(bytes), writer.close()]) written.catch(() => {}); // the reader throws it, too
  let text = '';
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return text + decoder.decode();
    text += decoder.decode(value, {stream: true});
  }
}

async function unpack() {
  const text = atob(JSON.parse(document.getElementById('turns').textContent));
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const {vocabulary, pieces, texts, passages, prompts, turns} = JSON.parse(await inflated(bytes));
  const joined = (places) => places.map((place) => pieces[place]).join('');
  DATA.vocabulary = vocabulary;
  DATA.texts = texts.map(joined);
  DATA.passages = passages.map(([id, title, places]) => [id, title, joined(places)]);
  DATA.groups.forEach((group, place) => { group.prompt = prompts[place]; });
  ITEMS.forEach((item, place) => { item.row.turns = turns[place].map((turn) => new Turn(turn)); });
}

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
    .flatMap((turn) => turn.advantages[algorithm] ?? []).reduce((most, [value]) => Math.max(most, Math.abs(value)), 0);
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

// Whether any token has a positive advantage by one algorithm and a negative one by another.
function differ(item, other) {
  const names = other === 'any' ? DATA.algorithms : [state.algorithm, other];
  return item.row.turns.some((turn) => opposed(names.map((name) => turn.advantages[name] ?? [])));
}

// The same for runs of equal values, as [[value, count], ...] for each algorithm.
function opposed(runs) {
  const at = runs.map(() => 0), left = runs.map((run) => run[0]?.[1] ?? Infinity);
  for (;;) {
    const signs = runs.map((run, k) => sign(run[at[k]]?.[0] ?? 0));
    if (Math.min(...signs) < 0 && Math.max(...signs) > 0) return true;
    const step = Math.min(...left);
    if (step === Infinity) return false;
    runs.forEach((run, k) => {
      left[k] -= step;
      if (left[k] === 0) left[k] = run[++at[k]]?.[1] ?? Infinity;
    });
  }
}

function searchable(item) {
  item.words ??= [item.group.question, ...item.group.golds, item.row.prediction ?? '', item.group.family,
    ...item.row.turns.map((turn) => turn.tokens.join('')),
    ...item.row.turns.flatMap((turn) => turn.passages.map((found) => DATA.passages[found.passage][1])),
  ].join('\n').toLowerCase();
  return item.words;
}

// Prepares the search while nothing else is to be done, so that its first letter is as fast as the others.
function prepareSearch(next = 0) {
  (window.requestIdleCallback ?? setTimeout)((idle) => {
    let place = next;
    while (place < ITEMS.length && (idle ? idle.timeRemaining() > 1 : place < next + 10)) searchable(ITEMS[place++]);
    if (place < ITEMS.length) prepareSearch(place);
  });
}

function verdict(row) {
  return row.correct ? '✓ correct' : '✗ wrong';
}

function given(row) {
  return row.prediction ?? 'no answer';
}
