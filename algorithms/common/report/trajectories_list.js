// The list of trajectories: search, filters, order and navigation.

function choices(of) {
  return [...new Set(ITEMS.map(of))].map((value) => [String(value), String(value)]);
}

const FILTERS = [
  ['Answer', [['correct', 'correct'], ['wrong', 'wrong']], (item, value) => item.row.correct === (value === 'correct')],
  ['Family', choices((item) => item.group.family), (item, value) => item.group.family === value],
  ['Group', choices((item) => item.group.outcomes), (item, value) => item.group.outcomes === value],
  ['Step', choices((item) => item.group.step), (item, value) => String(item.group.step) === value],
  ['Stop reason', choices((item) => item.row.stop_reason).map(([value, text]) => [value, text.replaceAll('_', ' ')]),
    (item, value) => item.row.stop_reason === value],
  ['Signs differ', SEVERAL ? [['any', 'between any two'],
    ...DATA.algorithms.map((name) => [name, `selected vs ${name}`])] : [], differ],
].filter(([, options]) => options.length > 1);

function filterBar() {
  parts.search = make('input', {type: 'search', placeholder: 'question, answer, query, title', input: filter});
  parts.filters = FILTERS.map(([label, options, test]) => {
    const [field, list] = select(label, [['', 'all'], ...options], filter);
    return {field, list, test};
  });
  const [order, list] = select('Order', [['', 'as recorded'], ['gain', 'largest gain']], reorder);
  parts.order = list;
  const fields = [...parts.filters.map(({field}) => field), order];
  parts.more = folded('Filters and order', make('div', {class: 'fields'}, ...fields));
  parts.more.open = !narrow();
  return make('form', {role: 'search', 'aria-label': 'Trajectories', submit: (event) => event.preventDefault()},
    make('label', {class: 'field'}, make('span', {}, 'Search'), parts.search), parts.more);
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

function reorder() {
  state.item = null; // selects the first one of the new order
  filter();
}

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
