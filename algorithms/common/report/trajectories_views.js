// Views of a trajectory: turn by turn, or side by side with its group.

function facts(item) {
  const {group, row, place} = item;
  const pairs = [
    ['Gold answer', group.golds.join(' | ')],
    ['Answer', make('span', {class: row.correct ? 'good' : 'bad'}, `${given(row)} (${verdict(row)})`)],
    ['Outcome reward', number(row.outcome)],
    ['Stop reason', row.stop_reason.replaceAll('_', ' ')],
    ['Group', `${place + 1} of ${group.trajectories.length}, ${group.outcomes}`],
    ['Family', group.family],
    group.step != null && ['Step', String(group.step)],
  ].filter(Boolean);
  return make('dl', {}, ...pairs.map(([name, value]) => make('div', {}, make('dt', {}, name), make('dd', {}, value))));
}

function turnCard(item, turn, index) {
  const ended = item.row.attempts.findIndex(([end]) => end === index + 1);
  const attempt = item.row.attempts.length > 1 && item.row.attempts[ended];
  return make('li', {class: 'turn'},
    make('h3', {}, `Turn ${index + 1}: ${turn.action}`, ...badges(turn, item.group)),
    tokens(turn, index, item.group), turn.action === 'search' && changesFromPrevious(item.row, turn),
    make('div', {class: 'evidence'}, ...[observation(turn), gainBar(turn, item.group)].filter(Boolean)),
    attempt && make('p', {class: 'heading'},
      `Attempt ${ended + 1} ends: ${attempt[1] ?? 'no answer'}, outcome ${number(attempt[2])}`));
}

function searches(row) {
  return row.turns.filter((turn) => turn.action === 'search');
}

function previousSearch(row, turn) {
  const asked = searches(row);
  return asked[asked.indexOf(turn) - 1];
}

function changesFromPrevious(row, turn) {
  const previous = previousSearch(row, turn);
  if (!previous) return null;
  if (turn.merged === previous.merged) return make('p', {class: 'changes'}, 'same query as before');
  return make('p', {class: 'changes'}, 'changed from the previous query: ', ...changes(previous.content, turn.content));
}

function legend(item) {
  const most = scale(item.group, state.algorithm);
  const end = (value) => paint(make('span', {class: 'token'}, signed(value)), value, most);
  return make('div', {class: 'legend'},
    make('span', {}, most ? end(-most) : 'all 0', make('span', {class: 'ramp', 'aria-hidden': 'true'}),
      most && end(most), ` advantage by ${state.algorithm}, scaled to this group`),
    make('span', {}, make('span', {class: 'token query'}, 'query'), ' query tokens'),
    make('span', {}, make('span', {class: 'masked'}, 'grey'), ' observation, masked, not in the loss'));
}

function one(item) {
  return [
    make('h2', {}, item.group.question), facts(item), legend(item),
    folded('prompt', make('p', {class: 'raw'}, DATA.texts[item.group.prompt])),
    make('ol', {class: 'turns'}, ...item.row.turns.map((turn, index) => turnCard(item, turn, index))),
  ];
}

addressed('queries', () => state.versus, (text) => {
  const known = /^(previous|[1-9]\d*)$/u.test(text);
  state.versus = known ? text : '';
  return known;
});

// The query with which that of a turn is compared in the group view: that of the previous search, or of the search with
// the same number of the chosen sibling.
function comparedQuery(group, row, turn) {
  if (state.versus === 'previous') return previousSearch(row, turn)?.content;
  const other = group.trajectories[state.versus - 1];
  return other && other !== row ? searches(other)[searches(row).indexOf(turn)]?.content : undefined;
}

function stepContent(group, row, turn) {
  const query = turn.action === 'search' ? comparedQuery(group, row, turn) : undefined;
  return query === undefined ? [turn.content ?? turn.tokens.join('')] : changes(query, turn.content);
}

function sibling(item, row, place) {
  const target = ITEMS.find((other) => other.row === row);
  const values = row.turns.flatMap((turn) => advantages(turn, state.algorithm));
  const steps = row.turns.map((turn) => make('li', {},
    make('span', {class: 'quiet'}, turn.action),
    make('span', {}, ...stepContent(item.group, row, turn)),
    make('span', {}, ...badges(turn, item.group), gainOf(turn) && chip(`IG ${signed(gainOf(turn).value)}`))));
  return make('article', {class: 'sibling', 'aria-current': row === item.row && 'true'},
    make('h3', {}, make('button', {type: 'button', click: () => open(target)}, `Trajectory ${place + 1}`)),
    make('p', {class: row.correct ? 'good' : 'bad'}, `${row.correct ? '✓' : '✗'} ${given(row)}`),
    make('p', {class: 'quiet'}, `outcome ${number(row.outcome)} · ${row.stop_reason.replaceAll('_', ' ')}`),
    make('p', {class: 'quiet'}, 'sum of advantages ', make('b', {}, values.length ? signed(total(values)) : 'not recorded')),
    make('ol', {}, ...steps));
}

function sideBySide(item) {
  const {group} = item;
  const compare = (versus) => {
    state.versus = versus;
    draw();
    parts.content.querySelector('.versus select').focus({preventScroll: true});
  };
  const [field, list] = select('Queries', [['', 'as written'], ['previous', 'changes from the previous query'],
    ...group.trajectories.map((_, place) => [String(place + 1), `changes from trajectory ${place + 1}`])], compare);
  if (Number(state.versus) > group.trajectories.length) state.versus = '';
  list.value = state.versus;
  return [
    make('h2', {}, group.question),
    make('p', {class: 'quiet'}, `Gold answer ${group.golds.join(' | ')} · `
      + `${plural(group.trajectories.length, 'sibling')}, ${group.outcomes} · advantages of ${state.algorithm}`),
    make('div', {class: 'versus'}, field),
    make('div', {class: 'siblings', role: 'region', tabindex: 0, 'aria-label': 'Siblings side by side'},
      ...group.trajectories.map((row, place) => sibling(item, row, place))),
  ];
}
