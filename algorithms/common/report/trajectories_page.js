// Drawing, toolbar and keyboard shortcuts; starts the page.

// `ofGroup`: the view shows all trajectories of a group, and selecting one shows its turns.
const VIEWS = {
  turns: {name: 'Turns', label: 'Turns of the trajectory', key: 't', content: one,
    hint: 'Hover over a token, or focus a turn with Tab and press ← →, to show its advantage and log-prob.'},
  credit: {name: 'Credit', label: 'Credit of each token', key: 'c', content: credit,
    hint: 'Hover over a column, or focus the tokens with Tab and press ← →, to show all advantages of a token.'},
  group: {name: 'Group', label: 'Group side by side', key: 'g', content: sideBySide, ofGroup: true,
    hint: 'Select a trajectory to show its turns.'},
  tree: {name: 'Tree', label: 'Tree of the searches of the group', key: 's', content: treeView, ofGroup: true,
    hint: 'Hover over a node, or focus the tree with Tab and press the arrow keys, to show its whole text.'},
};
const KEYS = [
  ['j, ↓', 'next trajectory'], ['k, ↑', 'previous trajectory'],
  ...Object.values(VIEWS).map(({key, label}) => [key, label]),
  ['a', 'next algorithm'], ['← →', 'previous or next token; in the tree, all arrow keys'],
  ['/', 'focus the search box'], ['?', 'show this list'],
];

addressed('algorithm', () => (state.algorithm === DATA.algorithms[0] ? '' : state.algorithm), (text) => {
  const known = DATA.algorithms.includes(text);
  setAlgorithm(known ? text : DATA.algorithms[0]);
  return known;
});
addressed('view', () => (state.view === 'turns' ? '' : state.view), (text) => {
  state.view = Object.hasOwn(VIEWS, text) ? text : 'turns';
  return state.view === text;
});

function draw() {
  showRow();
  for (const [view, button] of parts.views) button.setAttribute('aria-pressed', String(view === state.view));
  parts.status.textContent = VIEWS[state.view].hint;
  const item = state.item;
  const shown = item ? VIEWS[state.view].content(item) : [make('p', {}, 'No trajectory matches.')];
  const focused = parts.content.contains(document.activeElement);
  parts.content.replaceChildren(...shown.filter(Boolean));
  if (focused) parts.content.focus({preventScroll: true}); // the focused element was replaced
  const current = parts.content.querySelector('[aria-current]');
  if (current) current.parentElement.scrollLeft = current.offsetLeft - current.parentElement.offsetLeft - 16;
  const place = state.shown.indexOf(item);
  parts.place.textContent = `${place + 1} of ${state.shown.length}`;
  parts.before.disabled = place <= 0;
  parts.after.disabled = place < 0 || place === state.shown.length - 1;
  updateAddress();
}

function setAlgorithm(algorithm) {
  state.algorithm = algorithm;
  parts.algorithm.value = algorithm;
  for (const item of ITEMS) item.listed = null; // they show the gain that the algorithm uses
}

function choose(algorithm) {
  setAlgorithm(algorithm);
  if (SEVERAL) filter();
}

function nextAlgorithm() {
  choose(DATA.algorithms[(DATA.algorithms.indexOf(state.algorithm) + 1) % DATA.algorithms.length]);
}

function show(view) {
  state.view = view;
  draw();
}

function focusSearch() {
  openList(true);
  parts.search.focus();
}

const ACTIONS = {
  j: () => move(1), k: () => move(-1), ArrowDown: () => move(1), ArrowUp: () => move(-1),
  ...Object.fromEntries(Object.entries(VIEWS).map(([view, {key}]) => [key, () => show(view)])),
  a: nextAlgorithm, '/': focusSearch, '?': () => parts.keys.showModal(),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || parts.keys.open) return;
  if (event.target.matches('input:not([type="checkbox"]), select')) return;
  if (!ACTIONS[event.key]) return;
  ACTIONS[event.key]();
  event.preventDefault();
}

function toolbar() {
  parts.before = button('‹ Prev', () => move(-1));
  parts.after = button('Next ›', () => move(1));
  parts.place = make('span', {class: 'place'});
  parts.views = Object.entries(VIEWS).map(([view, {name, label}]) => [view, button(name, () => show(view), label)]);
  const [field, list] = select('Advantages of', DATA.algorithms.map((name) => [name, name]), choose);
  parts.algorithm = list;
  return make('div', {class: 'toolbar'}, parts.before, parts.place, parts.after,
    make('div', {class: 'views', role: 'group', 'aria-label': 'View'}, ...parts.views.map(([, button]) => button)),
    button('Link', copyLink, 'Copy link to this view'),
    button('?', () => parts.keys.showModal(), 'Keyboard shortcuts'), SEVERAL && field);
}

function keyList() {
  parts.keys = make('dialog', {'aria-label': 'Keyboard shortcuts'}, make('h2', {}, 'Keyboard shortcuts'),
    make('dl', {}, ...KEYS.map(([key, does]) =>
      make('div', {}, make('dt', {}, make('kbd', {}, key)), make('dd', {}, does)))),
    make('form', {method: 'dialog'}, make('button', {}, 'Close')));
  return parts.keys;
}

async function start() {
  const main = document.querySelector('main');
  try {
    await unpack();
  } catch (error) {
    main.append(make('p', {role: 'alert'}, 'The trajectories can\'t be read: the file is damaged, or the browser is older '
      + `than Chrome 80, Firefox 113 and Safari 16.4 (${error.message}).`));
    return;
  } finally {
    main.removeAttribute('aria-busy');
  }
  parts.note = make('p', {class: 'note', role: 'status'});
  parts.content = make('div', {tabindex: -1});
  parts.status = make('div', {class: 'status', role: 'status'});
  parts.detail = make('section', {class: 'detail', 'aria-label': 'Trajectory'}, toolbar(), parts.note, parts.content);
  main.append(browser(), parts.detail, parts.status, keyList());
  document.addEventListener('keydown', onKey);
  addEventListener('popstate', readAddress);
  openList(!narrow());
  readAddress();
  prepareSearch();
}

start();
