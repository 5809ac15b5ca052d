// Tokens in the colours of their advantages, and their details.

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
    class: 'tokens', role: 'group', 'aria-label': `Turn ${index + 1}, generated text. Use the arrow keys to move between tokens.`,
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
  const byValue = new Map(); // algorithms with equal advantages are listed together
  for (const name of names.filter((one) => advantages(turn, one).length)) {
    const value = signed(advantages(turn, name)[place], 4);
    byValue.set(value, [...byValue.get(value) ?? [], name]);
  }
  const listed = [...byValue].map(([value, equal]) => `${equal.join(', ')} ${value}`);
  return [
    `turn ${index + 1}, token ${place + 1} of ${turn.tokens.length}`,
    turn.tokens[place] ? `“${turn.tokens[place]}”` : 'part of a character',
    place >= span[0] && place < span[1] && 'query',
    logprob != null && `log-prob ${number(logprob)} (p ${number(Math.exp(logprob), 2)})`,
    `advantage ${listed.join('; ') || 'not recorded'}`,
  ].filter(Boolean).join(' · ');
}

function summary(turn, algorithm) {
  const [query, rest] = split(turn, advantages(turn, algorithm));
  const means = [];
  if (query.length) means.push(['query', mean(query)]);
  if (rest.length) means.push([query.length ? 'rest' : 'all tokens', mean(rest)]);
  return means;
}

function badges(turn, group) {
  const most = scale(group, state.algorithm);
  return summary(turn, state.algorithm)
    .map(([name, value]) => paint(chip(`${name} ${signed(value)}`, 'value'), value, most));
}
