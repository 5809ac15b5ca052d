// Views of a trajectory: turn by turn, or side by side with its group.

function facts(item) {
  const {group, row, place} = item;
  const told = [
    ['Gold answer', group.golds.join(' | ')],
    ['Answer', make('span', {class: row.correct ? 'good' : 'bad'}, `${given(row)} (${verdict(row)})`)],
    ['Outcome reward', number(row.outcome)],
    ['Stop reason', row.stop_reason.replaceAll('_', ' ')],
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
  const caption = 'Mean advantage over the query tokens, or over all tokens; one colour scale per algorithm';
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
      most && end(most), ` advantage by ${state.algorithm}, scaled to this group`),
    make('span', {}, make('span', {class: 'token query'}, 'query'), ' query tokens'),
    make('span', {}, make('span', {class: 'masked'}, 'grey'), ' observation, masked, not in the loss'));
}

function one(item) {
  return [
    make('h2', {}, item.group.question), facts(item), legend(item), SEVERAL && comparison(item),
    folded('prompt', make('p', {class: 'raw'}, DATA.texts[item.group.prompt])),
    make('ol', {class: 'turns'}, ...item.row.turns.map((turn, index) => turnCard(item, turn, index))),
  ];
}

function sibling(item, row, place) {
  const target = ITEMS.find((other) => other.row === row);
  const values = row.turns.flatMap((turn) => advantages(turn, state.algorithm));
  const total = values.reduce((sum, value) => sum + value, 0);
  const steps = row.turns.map((turn) => make('li', {},
    make('span', {class: 'quiet'}, turn.action),
    make('span', {}, turn.content ?? turn.tokens.join('')),
    make('span', {}, ...badges(turn, item.group), gainOf(turn) && chip(`IG ${signed(gainOf(turn).value)}`))));
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
