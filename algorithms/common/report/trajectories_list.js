// The list of trajectories: search, filters, order and navigation.

function choices(of) {
  return [...new Set(ITEMS.map(of))].map((value) => [String(value), String(value)]);
}

// Name in the address, label, options as [value, text], and whether an item has a value.
const FILTERS = [
  ['answer', 'Answer', [['correct', 'correct'], ['wrong', 'wrong']],
    (item, value) => item.row.correct === (value === 'correct')],
  ['family', 'Family', choices((item) => item.group.family), (item, value) => item.group.family === value],
  ['group', 'Group', choices((item) => item.group.outcomes), (item, value) => item.group.outcomes === value],
  ['step', 'Step', choices((item) => item.group.step), (item, value) => String(item.group.step) === value],
  ['stop', 'Stop reason',
    choices((item) => item.row.stop_reason).map(([value, text]) => [value, text.replaceAll('_', ' ')]),
    (item, value) => item.row.stop_reason === value],
  ['signs', 'Signs differ', SEVERAL ? [['any', 'between any two'],
    ...DATA.algorithms.map((name) => [name, `selected vs ${name}`])] : [], differ],
].filter(([, , options]) => options.length > 1);
const ORDER = ['order', 'Order', [['', 'as recorded'], ['gain', 'best information gain']]];

for (const [name] of [...FILTERS, ORDER]) {
  addressed(name, () => parts.choices[name].value, (text) => {
    const list = parts.choices[name];
    list.value = [...list.options].some((option) => option.value === text) ? text : '';
    return list.value === text;
  });
}
addressed('search', () => parts.search.value, (text) => { parts.search.value = text; });

// A trajectory is step:question:place, the same on every page of a run; where a page has several groups of a question
// in a step, the second one is step:question:place.2.
function naming(item) {
  const same = DATA.groups.filter(({step, id}) => step === item.group.step && id === item.group.id);
  const copy = same.indexOf(item.group);
  return `${item.group.step ?? ''}:${item.group.id}:${item.place + 1}${copy ? `.${copy + 1}` : ''}`;
}

addressed('trajectory', () => (state.item ? naming(state.item) : ''), (text) => {
  state.item = text ? ITEMS.find((item) => text.includes(`:${item.group.id}:`) && naming(item) === text) : null;
  return !text || state.item !== undefined;
});

function filterBar() {
  parts.choices = {};
  parts.search = make('input', {type: 'search', placeholder: 'question, answer, query, title', input: filter});
  const fields = [...FILTERS.map(([name, label, options]) => [name, label, [['', 'all'], ...options], filter]),
    [...ORDER, reorder]].map(([name, label, options, change]) => {
    const [field, list] = select(label, options, change);
    parts.choices[name] = list;
    return field;
  });
  parts.more = folded('Filters and order', make('div', {class: 'fields'}, ...fields));
  parts.more.open = !narrow();
  return make('form', {role: 'search', 'aria-label': 'Trajectories', submit: (event) => event.preventDefault()},
    make('label', {class: 'field'}, make('span', {}, 'Search'), parts.search), parts.more);
}

function browser() {
  parts.count = make('p', {role: 'status', class: 'count'});
  parts.through = make('p', {class: 'through'});
  parts.rows = make('div', {role: 'presentation', class: 'rows'});
  parts.list = make('div', {role: 'listbox', tabindex: 0, 'aria-label': 'Trajectories', scroll: drawRows}, parts.rows);
  parts.finder = make('div', {class: 'finder', id: 'finder'}, filterBar(), parts.count, parts.through, parts.list);
  parts.opener = button('Search, filters and list', () => openList(parts.finder.hidden));
  parts.opener.setAttribute('aria-controls', 'finder');
  NARROW.addEventListener('change', () => openList(!narrow()));
  addEventListener('resize', drawRows);
  return make('section', {class: 'browse', 'aria-label': 'Trajectory list'}, parts.opener, parts.finder);
}

// On wide windows the list is always open, and CSS hides its button.
function openList(open) {
  parts.finder.hidden = !open;
  parts.opener.setAttribute('aria-expanded', String(open));
  if (open) showRow();
}

function filter() {
  const words = parts.search.value.trim().toLowerCase();
  const tests = FILTERS.map(([name, , , test]) => [test, parts.choices[name].value]).filter(([, value]) => value);
  state.shown = ITEMS.filter((item) => tests.every(([test, value]) => test(item, value))
    && (!words || searchable(item).includes(words)) && (state.through?.rows.includes(item.row) ?? true));
  if (parts.choices.order.value) {
    const best = new Map(state.shown.map((item) => [item, largestGain(item)]));
    state.shown.sort((a, b) => best.get(b) - best.get(a));
  }
  if (!state.shown.includes(state.item)) state.item = state.shown[0];
  parts.count.textContent = `${state.shown.length} of ${ITEMS.length} trajectories`;
  drawThrough();
  parts.list.scrollTop = 0;
  draw();
}

function reorder() {
  state.item = null; // selects the first one of the new order
  filter();
}

function listRow(item) {
  const {group, row, place} = item;
  const best = largestGain(item);
  const about = [group.family, group.step != null && `step ${group.step}`,
    `${place + 1} of ${group.trajectories.length}`,
    plural(row.turns.filter((turn) => turn.action === 'search').length, 'search')].filter(Boolean);
  return make('div', {role: 'option', id: `row-${ITEMS.indexOf(item)}`, click: () => open(item)},
    make('span', {class: 'asked'}, group.question),
    make('span', {class: `given ${row.correct ? 'good' : 'bad'}`}, `${row.correct ? '✓' : '✗'} ${given(row)}`),
    make('span', {class: 'best', title: 'largest information gain of its searches, in nats'},
      Number.isFinite(best) ? `best IG ${signed(best)}` : ''),
    make('span', {class: 'quiet'}, about.join(' · ')));
}

const BEYOND = 6; // rows drawn above and below the visible ones

// Draws the rows in sight; all rows have one height. The selected one is always there: assistive technology follows it.
function drawRows() {
  const count = state.shown.length;
  parts.list.style.setProperty('--count', count);
  const height = parts.rows.getBoundingClientRect().height / count || 1; // 0 while the list is closed
  const from = Math.max(0, Math.floor(parts.list.scrollTop / height) - BEYOND);
  const to = Math.min(count, Math.ceil((parts.list.scrollTop + parts.list.clientHeight) / height) + BEYOND);
  const drawn = height > 1 ? state.shown.slice(from, to).map((item, k) => [item, from + k]) : [];
  const at = state.shown.indexOf(state.item);
  if (at >= 0 && (at < from || at >= to || !drawn.length)) drawn.push([state.item, at]);
  parts.rows.replaceChildren(...drawn.map(([item, place]) => {
    const row = item.listed ??= listRow(item);
    row.style.setProperty('--place', place);
    row.setAttribute('aria-posinset', place + 1);
    row.setAttribute('aria-setsize', count);
    row.setAttribute('aria-selected', String(item === state.item));
    return row;
  }));
  if (at < 0) parts.list.removeAttribute('aria-activedescendant');
  else parts.list.setAttribute('aria-activedescendant', state.item.listed.id);
}

// Scrolls to the selected row and draws the list.
function showRow() {
  drawRows();
  const row = state.item?.listed;
  if (!row || !row.offsetHeight) return;
  const top = row.offsetTop, bottom = top + row.offsetHeight, list = parts.list;
  if (top < list.scrollTop) list.scrollTop = top;
  if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
  drawRows();
}

function open(item) {
  state.item = item;
  if (VIEWS[state.view].ofGroup) state.view = 'turns';
  if (narrow()) openList(false);
  draw();
  if (parts.detail.getBoundingClientRect().top < 0) parts.detail.scrollIntoView();
}

function move(by) {
  const place = state.shown.indexOf(state.item) + by;
  if (!state.shown[place]) return;
  state.item = state.shown[place];
  draw();
  if (parts.detail.getBoundingClientRect().top < 0) parts.detail.scrollIntoView();
}
