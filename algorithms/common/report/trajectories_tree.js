// The search tree of a group: its trajectories, merged as long as they search for the same things.

const BOX = {width: 184, height: 76, gap: 108, space: 10}; // pixels; gap: between columns, space: between rows

const RULE = 'Trajectories share a node where all their searches so far are equal after normalisation, as answers are '
  + 'compared: lower case, without punctuation and articles. Invalid turns are merged whatever their text. '
  + 'IG: mean information gain of the search, in nats, over the trajectories.';

// The trajectories through a node of a path are those that share so many of its steps.
function readThrough() {
  return state.through?.rows.includes(state.item?.row) ? String(state.through.column) : '';
}

addressed('through', readThrough, (text) => {
  state.through = null;
  if (!state.item || !/^\d+$/u.test(text)) return false;
  const root = searchTree(state.item.group);
  arrange(root);
  let node = root;
  while (node && node.column < Number(text)) {
    node = [...node.children.values()].find(({through}) => through.some(([place]) => place === state.item.place));
  }
  if (node) limitTo(state.item.group, node);
  return Boolean(node);
});

// Nodes are {kind, text, through: [[place, turn], ...], children}; `through` names each trajectory at most once.
function searchTree(group) {
  const root = {kind: 'question', text: group.question, through: [], children: new Map()};
  group.trajectories.forEach((row, place) => {
    let at = root;
    root.through.push([place, null]);
    const step = (key, fresh, turn) => {
      if (!at.children.has(key)) at.children.set(key, {...fresh, key, through: [], children: new Map()});
      at = at.children.get(key);
      at.through.push([place, turn]);
    };
    row.turns.forEach((turn, index) => step(...nodeOf(row, turn, index), turn));
    if (row.turns.at(-1)?.action !== 'answer') step('end', {kind: 'end', text: stopped(row)}, null);
  });
  return root;
}

function stopped(row) {
  return row.stop_reason.replaceAll('_', ' ') || 'not ended';
}

// The key by which a turn is merged with those of siblings, and its node.
function nodeOf(row, turn, index) {
  const text = (turn.content ?? turn.tokens.join('')).trim() || '(empty)';
  if (turn.action === 'invalid') return ['invalid', {kind: 'invalid', text}];
  if (turn.action === 'search') return [`search ${turn.merged}`, {kind: 'search', text}];
  const last = index === row.turns.length - 1;
  const [, , outcome] = row.attempts.find(([end]) => end === index + 1) ?? [0, null, row.outcome];
  const judged = last ? row.correct : outcome > 0;
  const result = last ? verdict(row) : `attempt, outcome ${number(outcome)}`;
  return [`answer ${turn.merged} ${result}`, {kind: 'answer', text, result, correct: judged}];
}

function gainsAt(node) {
  return node.through.map(([, turn]) => turn && gainOf(turn)?.value).filter((value) => value != null);
}

// Sets the column and the row of each node, from 0; returns the numbers of columns and rows. A node is in the row of its
// first child, which most trajectories take, so that the question is on top.
function arrange(node, column = 0, row = 0) {
  const children = [...node.children.values()].sort((a, b) => b.through.length - a.through.length);
  node.children = new Map(children.map((child) => [child.key, child]));
  let next = row, columns = column + 1;
  for (const child of children) {
    const [deepest, after] = arrange(child, column + 1, next);
    next = after;
    columns = Math.max(columns, deepest);
  }
  node.column = column;
  node.row = row;
  return [columns, Math.max(next, row + 1)];
}

function draws(tag, attributes, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const left = (node) => node.column * (BOX.width + BOX.gap);
const middle = (node) => node.row * (BOX.height + BOX.space) + BOX.height / 2;

function edge(parent, node, count) {
  const x = left(parent) + BOX.width, end = left(node), top = middle(parent), y = middle(node);
  const width = 1.5 + 8.5 * node.through.length / count;
  const found = gainsAt(node);
  const label = `${found.length ? `IG ${signed(mean(found), 2)} · ` : ''}${node.through.length}×`;
  const down = y === top ? '' : `h2 q8 0 8 8 V${y - 8} q0 8 8 8`;
  return [draws('path', {d: `M${x} ${top} ${down} H${end}`, 'stroke-width': width}),
    draws('text', {x: end - 6, y: y - width / 2 - 4, 'text-anchor': 'end'}, label)];
}

function nodeTitle(node) {
  const empty = node.kind === 'search' && node.through.every(([, turn]) => !turn.passages.length);
  if (empty) return 'search · no passages';
  if (node.kind === 'invalid' && node.through.length > 1) return `invalid turn, first of ${node.through.length}`;
  return {answer: node.result, invalid: 'invalid turn'}[node.kind] ?? node.kind;
}

function nodeReading(node, group) {
  const found = gainsAt(node);
  const correct = node.through.filter(([place]) => group.trajectories[place].correct).length;
  return [
    `${nodeTitle(node)}: “${node.text}”`,
    `${node.through.length} of ${plural(group.trajectories.length, 'trajectory')}`,
    found.length && `mean information gain ${signed(mean(found))} nats`,
    `${correct} correct`,
  ].filter(Boolean).join(' · ');
}

function limitTo(group, node) {
  const rows = node.through.map(([place]) => group.trajectories[place]);
  state.through = {rows, text: node.text, column: node.column};
}

// What the list is limited to, below its count.
function drawThrough() {
  const all = () => {
    state.through = null;
    filter();
  };
  const {text} = state.through ?? {};
  const line = state.through && [make('span', {}, `through “${text}”`), button('Show all', all)];
  parts.through.replaceChildren(...line ?? []);
}

// Selecting a node leaves only the trajectories through it in the list; selecting it again shows all.
function selectNode(item, node) {
  const again = isSelected(item, node);
  const scrolled = parts.content.querySelector('.canopy').scrollLeft;
  limitTo(item.group, node);
  if (!state.through.rows.includes(item.row)) state.item = ITEMS.find(({row}) => row === state.through.rows[0]);
  if (again) state.through = null;
  filter();
  const canopy = parts.content.querySelector('.canopy');
  if (!canopy) return; // the other filters leave none of them
  canopy.scrollLeft = scrolled;
  canopy.querySelector('.node[tabindex="0"]').focus({preventScroll: true});
}

function isSelected(item, {column, through}) {
  return state.through?.column === column && state.through.rows[0] === item.group.trajectories[through[0][0]];
}

function treeView(item) {
  const {group} = item;
  const root = searchTree(group);
  const [columns, rows] = arrange(root);
  const width = columns * (BOX.width + BOX.gap) - BOX.gap, height = rows * (BOX.height + BOX.space) - BOX.space;
  const all = []; // [node, its button]
  const edges = draws('g', {}), labels = draws('g', {});
  const selected = state.through?.rows ?? [item.row];
  const branch = (node, parent) => {
    const on = node.through.some(([place]) => selected.includes(group.trajectories[place]));
    const box = make('button', {type: 'button', class: `node ${node.kind} ${verdictClass(node)} ${on ? 'on' : ''}`,
      'aria-pressed': String(isSelected(item, node)), tabindex: -1, 'aria-label': nodeReading(node, group),
      click: () => selectNode(item, node)},
    make('span', {class: 'quiet'}, nodeTitle(node)), make('span', {class: 'words'}, node.text));
    box.style.left = `${left(node)}px`;
    box.style.top = `${middle(node) - BOX.height / 2}px`;
    if (parent) {
      const [path, label] = edge(parent, node, group.trajectories.length);
      for (const part of [path, label]) part.classList.toggle('on', on);
      edges[on ? 'append' : 'prepend'](path); // chosen paths are drawn over the others
      labels.append(label);
    }
    all.push([node, box]);
    return make('li', {}, box, node.children.size > 0
      && make('ul', {}, ...[...node.children.values()].map((child) => branch(child, node))));
  };
  const tell = (event) => {
    const found = all.find(([, box]) => box.contains(event.target));
    if (found) parts.status.textContent = nodeReading(found[0], group);
  };
  const tree = make('div', {class: 'tree', mouseover: tell, focusin: tell, keydown: (event) => walkTree(event, all),
    role: 'group', 'aria-label': 'Search tree. Use the arrow keys to move between nodes.'},
  draws('svg', {width, height, 'aria-hidden': 'true'}, edges, labels), make('ul', {}, branch(root)));
  const [, entry] = all.find(([node]) => isSelected(item, node)) ?? all[0];
  entry.tabIndex = 0;
  tree.style.width = `${width}px`;
  tree.style.height = `${height}px`;
  return [
    make('h2', {}, group.question),
    make('p', {class: 'quiet'}, `Gold answer ${group.golds.join(' | ')} · `
      + `${plural(group.trajectories.length, 'trajectory')}, ${group.outcomes}. ${RULE}`),
    make('p', {}, state.through
      ? 'The list shows only trajectories through the selected node. Select the node again to show all.'
      : 'Select a node to list only the trajectories through it.'),
    make('div', {class: 'canopy'}, tree),
  ];
}

function verdictClass(node) {
  return node.kind === 'answer' ? (node.correct ? 'good' : 'bad') : '';
}

// → first child, ← parent, ↑ ↓ neighbours in the column. Outside the tree ↑ and ↓ change the trajectory.
function walkTree(event, all) {
  const [node, button] = all.find(([, one]) => one === event.target);
  const column = all.filter(([other]) => other.column === node.column);
  const at = column.findIndex(([other]) => other === node);
  const next = {
    ArrowUp: column[at - 1]?.[1], ArrowDown: column[at + 1]?.[1],
    ArrowRight: button.parentElement.querySelector(':scope > ul button'), ArrowLeft: parentButton(button),
  }[event.key];
  if (['ArrowUp', 'ArrowDown'].includes(event.key)) event.stopPropagation();
  if (!next) return;
  button.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
  event.preventDefault();
}

function parentButton(button) {
  return button.parentElement.parentElement.closest('li')?.firstChild;
}
