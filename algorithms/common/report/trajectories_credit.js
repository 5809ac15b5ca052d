// The credit view: the advantages of every algorithm as rows over the same tokens of one trajectory.

addressed('scale', () => (state.shared ? 'shared' : ''), (text) => {
  state.shared = text === 'shared';
  return state.shared;
});

// The tokens of a trajectory in reading order, and a gap for each observation.
function columnsOf(row) {
  return row.turns.flatMap((turn, index) => [
    ...(turn.tokens.length ? turn.tokens.map((_, place) => ({turn, index, place})) : [{turn, index}]),
    DATA.texts[turn.observation].trim() && {turn, index, gap: true},
  ].filter(Boolean));
}

function columnText({turn, place, gap}) {
  if (gap) return '⋯';
  if (place === undefined) return '(no tokens)';
  return turn.tokens[place].replaceAll('\n', '⏎').replaceAll('\t', '⇥') || '·';
}

function columnReading({turn, index, place, gap}) {
  if (gap) {
    const content = turn.passages.length ? plural(turn.passages.length, 'passage') : DATA.texts[turn.observation].trim();
    return `turn ${index + 1} · observation: ${content} · masked, no advantage`;
  }
  return place === undefined ? `turn ${index + 1} · no tokens` : reading(turn, index, place);
}

// Neighbouring columns of one turn that have the same value, as {value, columns}; a gap stands alone, without a value.
function blocks(columns, valueOf) {
  const found = [];
  for (const column of columns) {
    const value = column.gap ? undefined : valueOf(column);
    const last = found.at(-1);
    const alike = last && !column.gap && !last.columns[0].gap && last.columns[0].turn === column.turn;
    if (alike && last.value === value) last.columns.push(column);
    else found.push({value, columns: [column]});
  }
  return found;
}

function disagreement(values) {
  const signs = values.map(sign);
  const plus = signs.filter((one) => one > 0).length, minus = signs.filter((one) => one < 0).length;
  return plus && minus ? `${plus}+ ${minus}−` : '';
}

function advantageAt({turn, place}, name) {
  return advantages(turn, name)[place];
}

function creditScale(group, name) {
  return state.shared ? Math.max(...DATA.algorithms.map((other) => scale(group, other))) : scale(group, name);
}

// A row of the matrix. The words of a block are shown where they fit, and stay in sight while it is scrolled.
function creditRow(kind, name, columns, valueOf, wordsOf, finish) {
  const cells = blocks(columns, valueOf).map(({value, columns: covered}) => {
    if (covered[0].gap) return make('td', {class: 'gap'});
    const words = value == null ? '' : wordsOf(value);
    const room = covered.reduce((sum, column) => sum + columnText(column).length, 0);
    const cell = make('td', {colspan: covered.length}, words.length <= room && make('span', {class: 'stay'}, words));
    finish?.(cell, value);
    return cell;
  });
  return make('tr', {class: kind}, make('th', {class: 'names', scope: 'row'}, name), ...cells);
}

// A name that may be broken after each underscore.
function breakable(name) {
  return name.split('_').flatMap((word, place) => (place ? ['_', make('wbr'), word] : [word]));
}

function algorithmRow(item, name, columns) {
  const most = creditScale(item.group, name), chosen = name === state.algorithm;
  const title = make('button', {type: 'button', click: () => choose(name), 'aria-pressed': String(chosen)},
    ...breakable(name));
  const head = make('span', {}, title, make('span', {class: 'quiet'}, `±${number(most)}`));
  return creditRow(chosen ? 'chosen' : '', head, columns, (column) => advantageAt(column, name), signed,
    (cell, value) => value != null && paint(cell, value, most));
}

function signRow(columns) {
  return creditRow('signs', 'signs differ', columns,
    (column) => disagreement(DATA.algorithms.map((name) => advantageAt(column, name) ?? 0)),
    (words) => words && `≠ ${words}`, (cell, words) => words && cell.classList.add('differ'));
}

function tokenRow(columns) {
  return make('tr', {class: 'reading'}, make('th', {class: 'names', scope: 'row'}, 'token'),
    ...columns.map((column, at) => {
      const [start, end] = column.turn.query_span ?? [0, 0];
      const asked = !column.gap && column.place >= start && column.place < end;
      const starts = at > 0 && column.index !== columns[at - 1].index;
      const kinds = [column.gap ? 'gap' : 'token', asked && 'query', starts && 'starts'].filter(Boolean).join(' ');
      const label = column.gap ? {'aria-label': columnReading(column)} : {};
      return make('td', {class: kinds, tabindex: at ? -1 : 0, 'data-at': at, ...label}, columnText(column));
    }));
}

function matrix(item) {
  const columns = columnsOf(item.row);
  const heads = tokenRow(columns);
  const turnName = (index) => `turn ${index + 1}: ${item.row.turns[index].action}`;
  const table = make('table', {role: 'presentation'}, make('tbody', {},
    creditRow('turn-names', 'turn', columns, ({index}) => index, turnName), heads, SEVERAL && signRow(columns),
    ...DATA.algorithms.map((name) => algorithmRow(item, name, columns))));
  const cursor = make('div', {class: 'cursor', 'aria-hidden': 'true', hidden: true});
  const cells = [...heads.children].slice(1);
  const mark = (at) => {
    if (!cells[at]) return;
    parts.status.textContent = columnReading(columns[at]);
    cursor.hidden = false;
    cursor.style.left = `${cells[at].offsetLeft}px`;
    cursor.style.width = `${cells[at].offsetWidth}px`;
  };
  return make('div', {
    class: 'matrix', role: 'group', keydown: (event) => walkColumns(event, columns, cells),
    focusin: (event) => mark(Number(event.target.dataset.at ?? NaN)),
    mousemove: (event) => !event.target.closest('.names') && mark(columnUnder(cells, event.clientX)),
    'aria-label': 'Advantages per token. Use the arrow keys to move between tokens, Page Up and Page Down between turns.',
  }, table, cursor);
}

// The first cell that ends to the right of x, by bisection.
function columnUnder(cells, x) {
  let from = 0, to = cells.length;
  while (from < to) {
    const half = (from + to) >> 1;
    if (x < cells[half].getBoundingClientRect().right) to = half;
    else from = half + 1;
  }
  return from;
}

function walkColumns(event, columns, cells) {
  const at = cells.indexOf(event.target);
  const turn = (index) => columns.findIndex((column) => column.index === index);
  const next = at < 0 ? -1 : {
    ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: cells.length - 1,
    PageDown: turn(columns[at].index + 1), PageUp: turn(columns[at].index - 1),
  }[event.key] ?? -1;
  if (!cells[next]) return;
  cells[at].tabIndex = -1;
  cells[next].tabIndex = 0;
  cells[next].focus();
  event.preventDefault();
}

function total(values) {
  return values.reduce((sum, value) => sum + value, 0);
}

// What the table shows of a turn, as {heading, of}: `of` an algorithm is a number, or null if it is not recorded.
function turnFields(turn) {
  const field = (heading, of) => ({heading, of: (name) => {
    const values = advantages(turn, name);
    return values.length ? of(values) : null;
  }});
  const [query, rest] = split(turn, turn.tokens).map((tokens) => tokens.length > 0);
  return [
    query && field('mean of the query', (values) => mean(split(turn, values)[0])),
    (rest || !query) && field(query ? 'mean of the rest' : 'mean', (values) => mean(split(turn, values)[1])),
    field('sum', total),
  ].filter(Boolean);
}

// The advantages turn by turn, as a table.
function turnTable(item) {
  const {group, row} = item;
  const turns = row.turns.map(turnFields);
  const everything = {heading: 'sum of all turns',
    of: (name) => total(row.turns.flatMap((turn) => advantages(turn, name)))};
  const fields = [...turns.flat(), everything];
  const border = ({heading}) => heading === 'sum' && 'ends-turn';
  const cell = (field, name) => {
    const value = field.of(name), most = field.heading.startsWith('mean') && creditScale(group, name);
    return make('td', {class: border(field)},
      value == null ? '–' : most ? paint(chip(signed(value), 'value'), value, most) : signed(value));
  };
  const line = (name) => make('tr', {class: name === state.algorithm ? 'chosen' : ''},
    make('th', {scope: 'row'}, ...breakable(name)), ...fields.map((field) => cell(field, name)));
  const differing = SEVERAL && make('tr', {}, make('th', {scope: 'row'}, 'signs differ'), ...fields.map((field) =>
    make('td', {class: border(field)}, disagreement(DATA.algorithms.map((name) => field.of(name) ?? 0)))));
  const wide = (text) => make('th', {scope: 'col', rowspan: 2}, text);
  const table = make('table', {}, make('caption', {}, 'Advantages per turn, over the tokens of the policy'),
    make('thead', {},
      make('tr', {}, wide('algorithm'), ...turns.map((found, index) =>
        make('th', {scope: 'colgroup', colspan: found.length}, `${index + 1} ${row.turns[index].action}`)),
      wide(everything.heading)),
      make('tr', {}, ...turns.flat().map((field) =>
        make('th', {scope: 'col', class: border(field)}, field.heading)))),
    make('tbody', {}, ...DATA.algorithms.map(line), differing));
  return make('div', {class: 'wide turn-sums', tabindex: 0, role: 'region', 'aria-label': 'Advantages per turn'}, table);
}

function creditLegend(item) {
  const toggle = (event) => {
    state.shared = event.target.checked;
    draw();
    parts.content.querySelector('.shared input').focus({preventScroll: true});
  };
  const box = make('input', {type: 'checkbox', change: toggle, checked: state.shared});
  const scaleNote = state.shared
    ? `one scale, ±${number(creditScale(item.group))}: the largest advantage of all algorithms in this group`
    : 'each row has its own scale: the largest advantage of its algorithm in this group';
  return make('div', {class: 'legend'},
    make('span', {}, '−', make('span', {class: 'ramp', 'aria-hidden': 'true'}), `+ advantage; ${scaleNote}`),
    SEVERAL && make('label', {class: 'shared'}, box, ' shared scale'),
    make('span', {}, make('span', {class: 'token query'}, 'query'), ' query tokens'),
    make('span', {}, make('span', {class: 'gap key', 'aria-hidden': 'true'}), ' observation, masked, not in the loss'),
    SEVERAL && make('span', {}, make('b', {}, '≠ 3+ 2−'),
      ' signs differ: 3 algorithms reward the token, 2 punish it'));
}

function credit(item) {
  return [make('h2', {}, item.group.question), facts(item), creditLegend(item), matrix(item), turnTable(item)];
}
