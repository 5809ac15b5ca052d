// What the pages of training and of searches share.

// Information gain, with its sign.
function nats(value) {
  const text = Math.abs(value).toFixed(2);
  return `${Number(text) === 0 ? '' : value < 0 ? '−' : '+'}${text}`;
}

function percent(share) {
  return `${Math.round(100 * share)}%`;
}

// One of the facts of a list (dl).
function fact(name, value, note) {
  return make('div', {}, make('dt', {}, name), make('dd', {}, value, make('small', {}, note)));
}

// A table that scrolls sideways if it is too wide; cells are texts or elements, the first one of a row is its heading.
function tableOf(label, head, rows) {
  const names = head.map((name) => make('th', {scope: 'col'}, name));
  const table = make('table', {}, make('thead', {}, make('tr', {}, ...names)),
    make('tbody', {}, ...rows.map(tableRow)));
  return make('div', {class: 'wide', tabindex: 0, role: 'region', 'aria-label': label}, table);
}

function tableRow([first, ...rest]) {
  return make('tr', {}, make('th', {scope: 'row'}, first), ...rest.map((cell) => make('td', {}, cell)));
}
