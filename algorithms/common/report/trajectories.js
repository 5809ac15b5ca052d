'use strict';
// Shows what `trajectories.py` wrote into the page. Data reaches the document as text nodes only.

const DATA = JSON.parse(document.getElementById('trajectories').textContent);
const ITEMS = DATA.groups.flatMap((group) => group.trajectories.map((row, place) => ({group, row, place})));
const SEVERAL = DATA.algorithms.length > 1;
const ZERO = 1e-6; // a smaller advantage is rounding
const HINT = 'Point at a token, or Tab to a text and press ← →, to read its advantage and log-prob.';
const KEYS = [
  ['j, ↓', 'next trajectory'], ['k, ↑', 'previous trajectory'], ['g', 'the group side by side, and back'],
  ['a', 'next algorithm'], ['← →', 'token by token, where a text has the focus'], ['/', 'search box'],
  ['?', 'this list'],
];
const state = {shown: ITEMS, item: ITEMS[0], algorithm: DATA.algorithms[0], side: false, compared: false};
const parts = {};

// ---------------------------------------------------------------- elements

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === 'function') element.addEventListener(name, value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child || child === ''));
  return element;
}

function chip(text, kind) {
  return make('span', {class: `chip ${kind ?? ''}`}, text);
}

function folded(summary, ...children) {
  return make('details', {}, make('summary', {}, summary), ...children);
}

function select(label, options, onChange) {
  const list = make('select', {'aria-label': label, change: (event) => onChange(event.target.value)},
    ...options.map(([value, text]) => make('option', {value}, text)));
  return [make('label', {class: 'field'}, make('span', {}, label), list), list];
}

// ---------------------------------------------------------------- numbers

function number(value, digits = 3) {
  if (value == null) return 'not finite';
  if (value === 0) return '0';
  const size = Math.abs(value);
  return `${value < 0 ? '−' : ''}${size < 10 ** digits ? size.toPrecision(digits) : size.toFixed(0)}`;
}

function signed(value, digits) {
  return `${value > 0 ? '+' : ''}${number(value, digits)}`;
}

function sign(value) {
  return Math.abs(value) < ZERO ? 0 : Math.sign(value);
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function plural(count, word) {
  return `${count} ${word}${count === 1 ? '' : word.endsWith('ch') ? 'es' : 's'}`;
}

// ---------------------------------------------------------------- what a trajectory says

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

function gains(row) {
  return row.turns.filter((turn) => turn.gain?.value != null).map((turn) => turn.gain.value);
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

// ---------------------------------------------------------------- filters

function choices(of) {
  return [...new Set(ITEMS.map(of))].map((value) => [String(value), String(value)]);
}

const FILTERS = [
  ['Answer', [['correct', 'correct'], ['wrong', 'wrong']], (item, value) => item.row.correct === (value === 'correct')],
  ['Family', choices((item) => item.group.family), (item, value) => item.group.family === value],
  ['Group', choices((item) => item.group.outcomes), (item, value) => item.group.outcomes === value],
  ['Step', choices((item) => item.group.step), (item, value) => String(item.group.step) === value],
  ['Ended', choices((item) => item.row.stop_reason).map(([value, text]) => [value, text.replaceAll('_', ' ')]),
    (item, value) => item.row.stop_reason === value],
  ['Signs differ', SEVERAL ? [['any', 'between any two'],
    ...DATA.algorithms.map((name) => [name, `from ${name}`])] : [], differ],
].filter(([, options]) => options.length > 1);

function filterBar() {
  parts.search = make('input', {type: 'search', placeholder: 'question, answer, query, title', input: filter});
  parts.filters = FILTERS.map(([label, options, test]) => {
    const [field, list] = select(label, [['', 'all'], ...options], filter);
    return {field, list, test};
  });
  const [order, list] = select('Order', [['', 'as recorded'], ['gain', 'largest information gain']], reorder);
  parts.order = list;
  const fields = [...parts.filters.map(({field}) => field), order];
  parts.more = folded('Filters and order', make('div', {class: 'fields'}, ...fields));
  parts.more.open = !narrow();
  return make('form', {role: 'search', 'aria-label': 'Trajectories', submit: (event) => event.preventDefault()},
    make('label', {class: 'field'}, make('span', {}, 'Search'), parts.search), parts.more);
}

function narrow() {
  return matchMedia('(max-width: 900px)').matches;
}

function filter() {
  const words = parts.search.value.trim().toLowerCase();
  const tests = parts.filters.filter(({list}) => list.value);
  state.shown = ITEMS.filter((item) => tests.every(({list, test}) => test(item, list.value))
    && (!words || searchable(item).includes(words)));
  if (parts.order.value) state.shown.sort((a, b) => largestGain(b) - largestGain(a));
  if (!state.shown.includes(state.item)) state.item = state.shown[0];
  drawList();
  draw();
}

// ---------------------------------------------------------------- the list

function listRow(item) {
  const {group, row, place} = item;
  const best = largestGain(item);
  const told = [group.family, group.step != null && `step ${group.step}`,
    `${place + 1} of ${group.trajectories.length}`,
    plural(row.turns.filter((turn) => turn.action === 'search').length, 'search')].filter(Boolean);
  return make('li', {role: 'option', id: `row-${ITEMS.indexOf(item)}`, click: () => open(item)},
    make('span', {class: 'asked'}, group.question),
    make('span', {class: `given ${row.correct ? 'good' : 'bad'}`}, `${row.correct ? '✓' : '✗'} ${given(row)}`),
    make('span', {class: 'best'}, Number.isFinite(best) ? `IG ${signed(best)}` : ''),
    make('span', {class: 'quiet'}, told.join(' · ')));
}

function reorder() {
  state.item = null; // the first of the new order
  filter();
}

function drawList() {
  parts.list.replaceChildren(...state.shown.map((item) => item.listed ??= listRow(item)));
  parts.list.scrollTop = 0;
  parts.count.textContent = `${state.shown.length} of ${ITEMS.length} trajectories`;
}

function markRow() {
  parts.marked?.setAttribute('aria-selected', 'false');
  parts.marked = state.item?.listed;
  if (!parts.marked) return parts.list.removeAttribute('aria-activedescendant');
  parts.marked.setAttribute('aria-selected', 'true');
  parts.list.setAttribute('aria-activedescendant', parts.marked.id);
  const top = parts.marked.offsetTop, bottom = top + parts.marked.offsetHeight;
  if (top < parts.list.scrollTop) parts.list.scrollTop = top;
  if (bottom > parts.list.scrollTop + parts.list.clientHeight) parts.list.scrollTop = bottom - parts.list.clientHeight;
}

function open(item) {
  state.item = item;
  state.side = false;
  draw();
  if (narrow() || parts.detail.getBoundingClientRect().top < 0) parts.detail.scrollIntoView();
}

function move(by) {
  const place = state.shown.indexOf(state.item) + by;
  if (!state.shown[place]) return;
  state.item = state.shown[place];
  draw();
  if (parts.detail.getBoundingClientRect().top < 0) parts.detail.scrollIntoView();
}

// ---------------------------------------------------------------- tokens

function paint(element, value, most) {
  element.classList.add(['minus', 'zero', 'plus'][sign(value) + 1]);
  element.style.setProperty('--weight', most ? Math.abs(value) / most : 0);
  return element;
}

function token(turn, place, span, value, most) {
  const text = turn.tokens[place];
  const element = make('span', {class: 'token', tabindex: place ? -1 : 0, 'data-place': place}, text || '·');
  if (place >= span[0] && place < span[1]) element.classList.add('query');
  return value == null ? element : paint(element, value, most);
}

function tokens(turn, index, group) {
  const found = advantages(turn, state.algorithm);
  const most = scale(group, state.algorithm);
  const span = turn.query_span ?? [0, 0];
  const tell = (event) => {
    const place = event.target.dataset.place;
    if (place !== undefined) parts.status.textContent = reading(turn, index, Number(place));
  };
  return make('div', {
    class: 'tokens', role: 'group', 'aria-label': `Turn ${index + 1}, as written. Arrow keys read the tokens.`,
    mouseover: tell, focusin: tell, keydown: walk,
  }, ...turn.tokens.map((_, place) => token(turn, place, span, found[place], most)));
}

function walk(event) {
  const step = {ArrowRight: 'nextElementSibling', ArrowLeft: 'previousElementSibling'}[event.key];
  const next = step && event.target[step];
  if (!next) return;
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
  event.preventDefault();
}

function reading(turn, index, place) {
  const span = turn.query_span ?? [0, 0];
  const logprob = turn.logprobs[place];
  const names = [state.algorithm, ...DATA.algorithms.filter((name) => name !== state.algorithm)];
  const told = names.filter((name) => advantages(turn, name).length)
    .map((name) => `${name} ${signed(advantages(turn, name)[place], 4)}`);
  return [
    `turn ${index + 1}, token ${place + 1} of ${turn.tokens.length}`,
    turn.tokens[place] ? `“${turn.tokens[place]}”` : 'part of a character',
    place >= span[0] && place < span[1] && 'query',
    logprob != null && `log-prob ${number(logprob)} (p ${number(Math.exp(logprob), 2)})`,
    `advantage ${told.join(', ') || 'not recorded'}`,
  ].filter(Boolean).join(' · ');
}

function summary(turn, algorithm) {
  const [query, rest] = split(turn, advantages(turn, algorithm));
  const told = [];
  if (query.length) told.push(['query', mean(query)]);
  if (rest.length) told.push([query.length ? 'rest' : 'all tokens', mean(rest)]);
  return told;
}

function badges(turn, group) {
  const most = scale(group, state.algorithm);
  return summary(turn, state.algorithm)
    .map(([name, value]) => paint(chip(`${name} ${signed(value)}`, 'value'), value, most));
}

// ---------------------------------------------------------------- what was read, and what it was worth

function highlighted(text, spans) {
  const characters = Array.from(text); // spans count characters, not UTF-16 units
  const pieces = [];
  let at = 0;
  for (const [start, end] of spans) {
    pieces.push(characters.slice(at, start).join(''), make('mark', {}, characters.slice(start, end).join('')));
    at = end;
  }
  return [...pieces, characters.slice(at).join('')];
}

function passage(found) {
  const [, title, text] = DATA.passages[found.passage];
  return make('li', {class: 'passage'},
    make('strong', {}, ...highlighted(title, found.title_spans)),
    found.supporting && chip('★ supporting', 'good'),
    found.text_spans.length + found.title_spans.length > 0 && chip('holds the answer', 'gold'),
    make('span', {class: 'quiet'}, ` score ${number(found.score)}`),
    make('p', {}, ...highlighted(text, found.text_spans)));
}

function observation(turn) {
  const text = DATA.texts[turn.observation];
  if (!text.trim()) return null;
  const raw = make('p', {class: 'raw'}, text.trim());
  const heading = turn.passages.length ? `Read ${plural(turn.passages.length, 'passage')}` : 'Read';
  return make('div', {class: 'observation'},
    make('p', {class: 'heading'}, heading, chip('masked, not in the loss')),
    turn.passages.length > 0 && make('ol', {}, ...turn.passages.map(passage)),
    turn.passages.length ? folded('as the policy read it', raw) : raw);
}

function floor(group) {
  group.floor ??= Math.min(-1, ...group.trajectories.flatMap((row) => row.turns)
    .flatMap((turn) => turn.gain ? [turn.gain.logprob_real ?? 0, turn.gain.logprob_baseline ?? 0] : []));
  return group.floor;
}

function gainBar(turn, group) {
  const gain = turn.gain;
  if (!gain) {
    const why = turn.passages.length ? 'not measured' : 'none, nothing was found';
    return turn.action === 'search' && make('p', {class: 'quiet'}, `Information gain: ${why}`);
  }
  const lowest = floor(group), percent = (value) => 100 * (1 - Math.max(lowest, value ?? lowest) / lowest);
  const real = percent(gain.logprob_real), base = percent(gain.logprob_baseline);
  const other = gain.baseline_evidences.length ? `mean of ${gain.baseline_evidences.length} random` : 'baseline';
  const at = (kind, left) => make('span', {class: kind, style: `left: ${left}%`});
  const bar = paint(make('span', {class: 'bar'}), gain.value ?? 0, 1);
  bar.style.left = `${Math.min(real, base)}%`;
  bar.style.width = `${Math.abs(real - base)}%`;
  return make('div', {class: 'gain'},
    make('p', {class: 'heading'}, 'Information gain ', make('strong', {}, `${signed(gain.value)} nats`)),
    make('div', {class: 'axis', 'aria-hidden': 'true'}, bar, at('dot base', base), at('dot real', real)),
    make('p', {class: 'ends', 'aria-hidden': 'true'}, make('span', {}, number(lowest)), make('span', {}, '0')),
    make('p', {}, 'log-prob of the gold answer: ', make('span', {class: 'key real'}), ' after these passages ',
      make('b', {}, number(gain.logprob_real)), ', ', make('span', {class: 'key base'}), ` ${other} `,
      make('b', {}, number(gain.logprob_baseline))),
    gain.baseline_evidences.length > 0 && folded('the random evidence',
      ...gain.baseline_evidences.map((text) => make('p', {class: 'raw'}, DATA.texts[text].trim()))));
}

// ---------------------------------------------------------------- one trajectory

function facts(item) {
  const {group, row, place} = item;
  const told = [
    ['Gold answer', group.golds.join(' | ')],
    ['Answered', make('span', {class: row.correct ? 'good' : 'bad'}, `${given(row)} (${verdict(row)})`)],
    ['Outcome reward', number(row.outcome)],
    ['Ended', row.stop_reason.replaceAll('_', ' ')],
    ['Group', `${place + 1} of ${group.trajectories.length}, ${group.outcomes}`],
    ['Family', group.family],
    group.step != null && ['Step', String(group.step)],
  ].filter(Boolean);
  return make('dl', {}, ...told.map(([name, value]) => make('div', {}, make('dt', {}, name), make('dd', {}, value))));
}

function turnCard(item, turn, index) {
  const ended = item.row.attempts.findIndex(([end]) => end === index + 1);
  const attempt = item.row.attempts.length > 1 && item.row.attempts[ended];
  return make('li', {class: 'turn'},
    make('h3', {}, `Turn ${index + 1}: ${turn.action}`, ...badges(turn, item.group)),
    tokens(turn, index, item.group),
    make('div', {class: 'evidence'}, ...[observation(turn), gainBar(turn, item.group)].filter(Boolean)),
    attempt && make('p', {class: 'heading'},
      `Attempt ${ended + 1} ends: ${attempt[1] ?? 'no answer'}, outcome ${number(attempt[2])}`));
}

function comparison(item) {
  const head = item.row.turns.map((turn, index) => make('th', {scope: 'col'}, `${index + 1} ${turn.action}`));
  const line = (name) => make('tr', {class: name === state.algorithm ? 'chosen' : ''},
    make('th', {scope: 'row'}, make('button', {type: 'button', click: () => choose(name)}, name)),
    ...item.row.turns.map((turn) => comparisonCell(item.group, turn, name)));
  const caption = 'Mean advantage of the query, or of all tokens; each algorithm on its own scale';
  const table = make('table', {}, make('caption', {}, caption),
    make('thead', {}, make('tr', {}, make('th', {scope: 'col'}, 'algorithm'), ...head)),
    make('tbody', {}, ...DATA.algorithms.map(line)));
  const box = folded(`All ${DATA.algorithms.length} algorithms, turn by turn`,
    make('div', {class: 'wide', tabindex: 0, role: 'region', 'aria-label': 'All algorithms'}, table));
  box.open = state.compared;
  box.addEventListener('toggle', () => { state.compared = box.open; });
  return box;
}

function comparisonCell(group, turn, name) {
  const [told] = summary(turn, name);
  if (!told) return make('td', {}, '–');
  return make('td', {}, paint(chip(signed(told[1]), 'value'), told[1], scale(group, name)));
}

function legend(item) {
  const most = scale(item.group, state.algorithm);
  const end = (value) => paint(make('span', {class: 'token'}, signed(value)), value, most);
  return make('div', {class: 'legend'},
    make('span', {}, most ? end(-most) : 'all 0', make('span', {class: 'ramp', 'aria-hidden': 'true'}),
      most && end(most), ` advantage by ${state.algorithm}, scale of this group`),
    make('span', {}, make('span', {class: 'token query'}, 'query'), ' tokens of the query'),
    make('span', {}, make('span', {class: 'masked'}, 'grey'), ' read, masked, not in the loss'));
}

function one(item) {
  return [
    make('h2', {}, item.group.question), facts(item), legend(item), SEVERAL && comparison(item),
    folded('prompt', make('p', {class: 'raw'}, DATA.texts[item.group.prompt])),
    make('ol', {class: 'turns'}, ...item.row.turns.map((turn, index) => turnCard(item, turn, index))),
  ];
}

// ---------------------------------------------------------------- the group side by side

function sibling(item, row, place) {
  const target = ITEMS.find((other) => other.row === row);
  const values = row.turns.flatMap((turn) => advantages(turn, state.algorithm));
  const total = values.reduce((sum, value) => sum + value, 0);
  const steps = row.turns.map((turn) => make('li', {},
    make('span', {class: 'quiet'}, turn.action),
    make('span', {}, turn.content ?? turn.tokens.join('')),
    make('span', {}, ...badges(turn, item.group), turn.gain && chip(`IG ${signed(turn.gain.value)}`))));
  return make('article', {class: 'sibling', 'aria-current': row === item.row && 'true'},
    make('h3', {}, make('button', {type: 'button', click: () => open(target)}, `Trajectory ${place + 1}`)),
    make('p', {class: row.correct ? 'good' : 'bad'}, `${row.correct ? '✓' : '✗'} ${given(row)}`),
    make('p', {class: 'quiet'}, `outcome ${number(row.outcome)} · ${row.stop_reason.replaceAll('_', ' ')}`),
    make('p', {class: 'quiet'}, 'sum of advantages ', make('b', {}, values.length ? signed(total) : 'not recorded')),
    make('ol', {}, ...steps));
}

function sideBySide(item) {
  const {group} = item;
  return [
    make('h2', {}, group.question),
    make('p', {class: 'quiet'}, `Gold answer ${group.golds.join(' | ')} · `
      + `${plural(group.trajectories.length, 'sibling')}, ${group.outcomes} · advantages of ${state.algorithm}`),
    make('div', {class: 'siblings', role: 'region', tabindex: 0, 'aria-label': 'Siblings side by side'},
      ...group.trajectories.map((row, place) => sibling(item, row, place))),
  ];
}

// ---------------------------------------------------------------- drawing and keys

function draw() {
  markRow();
  parts.side.setAttribute('aria-pressed', String(state.side));
  parts.status.textContent = HINT;
  const item = state.item;
  const shown = item ? (state.side ? sideBySide(item) : one(item)) : [make('p', {}, 'No trajectory matches.')];
  const focused = parts.content.contains(document.activeElement);
  parts.content.replaceChildren(...shown.filter(Boolean));
  if (focused) parts.content.focus({preventScroll: true}); // what had it is gone
  const current = parts.content.querySelector('[aria-current]');
  if (current) current.parentElement.scrollLeft = current.offsetLeft - current.parentElement.offsetLeft - 16;
  const place = state.shown.indexOf(item);
  parts.before.disabled = place <= 0;
  parts.after.disabled = place < 0 || place === state.shown.length - 1;
}

function choose(algorithm) {
  state.algorithm = algorithm;
  parts.algorithm.value = algorithm;
  if (SEVERAL) filter();
}

function nextAlgorithm() {
  choose(DATA.algorithms[(DATA.algorithms.indexOf(state.algorithm) + 1) % DATA.algorithms.length]);
}

function toggleSide() {
  state.side = !state.side;
  draw();
}

const ACTIONS = {
  j: () => move(1), k: () => move(-1), ArrowDown: () => move(1), ArrowUp: () => move(-1), g: toggleSide,
  a: nextAlgorithm, '/': () => parts.search.focus(), '?': () => parts.keys.showModal(),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || parts.keys.open) return;
  if (event.target.matches('input, select')) return;
  if (!ACTIONS[event.key]) return;
  ACTIONS[event.key]();
  event.preventDefault();
}

function button(text, click, label) {
  return make('button', {type: 'button', click, 'aria-label': label}, text);
}

function toolbar() {
  parts.before = button('‹ Prev', () => move(-1));
  parts.after = button('Next ›', () => move(1));
  parts.side = button('Group', toggleSide, 'Group side by side');
  const [field, list] = select('Advantages of', DATA.algorithms.map((name) => [name, name]), choose);
  parts.algorithm = list;
  return make('div', {class: 'toolbar'}, parts.before, parts.after, parts.side,
    button('?', () => parts.keys.showModal(), 'Keyboard shortcuts'), SEVERAL && field);
}

function keyList() {
  parts.keys = make('dialog', {'aria-label': 'Keyboard shortcuts'}, make('h2', {}, 'Keyboard shortcuts'),
    make('dl', {}, ...KEYS.map(([key, does]) =>
      make('div', {}, make('dt', {}, make('kbd', {}, key)), make('dd', {}, does)))),
    make('form', {method: 'dialog'}, make('button', {}, 'Close')));
  return parts.keys;
}

function start() {
  parts.count = make('p', {role: 'status', class: 'count'});
  parts.list = make('ul', {role: 'listbox', tabindex: 0, 'aria-label': 'Trajectories'});
  parts.content = make('div', {tabindex: -1});
  parts.status = make('div', {class: 'status', role: 'status'});
  parts.detail = make('section', {class: 'detail', 'aria-label': 'Trajectory'}, toolbar(), parts.content);
  document.querySelector('main').append(
    make('section', {class: 'browse', 'aria-label': 'Choose'}, filterBar(), parts.count, parts.list),
    parts.detail, parts.status, keyList());
  document.addEventListener('keydown', onKey);
  filter();
}

start();
