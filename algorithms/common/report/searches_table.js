// The figures beside the plot, the tables by place and by step, and the searches as a table.

const MORE = 100; // rows that are added at a time

function interval(found, write) {
  return found && found[1] != null ? `95% interval ${write(found[1])} to ${write(found[2])}` : 'no interval';
}

function drawFigures() {
  const found = figuresOf(state.step, state.place);
  const area = (value) => value.toFixed(2);
  parts.figures.replaceChildren(...(found ? [
    make('dl', {class: 'facts'},
      fact('Mean gain, correct', found.correct ? `${nats(found.correct[0])} nats` : '–',
        `${interval(found.correct, nats)}, n ${found.n_correct}`),
      fact('Mean gain, wrong', found.wrong ? `${nats(found.wrong[0])} nats` : '–',
        `${interval(found.wrong, nats)}, n ${found.n_wrong}`),
      fact('AUC of gain for a correct answer', found.auc ? area(found.auc[0]) : '–', interval(found.auc, area)),
      fact('Searches', String(found.n), `of ${plural(found.questions, 'question')}`)),
    make('p', {class: 'quiet'}, 'The AUC is the probability that a search of a correct episode has a higher gain than '
      + 'one of a wrong episode: 0.5 if gain says nothing about the outcome. Intervals resample questions'
      + (found.questions < 10 ? '; with so few questions they are too narrow.' : '.')),
  ] : [make('p', {}, 'No search matches.')]));
}

function summaryRow(name, found) {
  const area = (value) => value.toFixed(2);
  const estimates = [[found?.correct, nats], [found?.wrong, nats], [found?.auc, area]];
  return [name, found ? String(found.n) : '0', ...estimates.map(([one, write]) => estimate(one, write))];
}

function summaryTable(title, first, rows) {
  return make('section', {}, make('h2', {}, title),
    tableOf(title, [first, 'n', 'gain, correct', 'gain, wrong', 'AUC'], rows));
}

function drawSummaries() {
  const atStep = state.step === '' ? '' : `, step ${state.step}`;
  const atPlace = state.place === '' ? '' : `, search ${placeName(Number(state.place))}`;
  parts.summaries.replaceChildren(
    summaryTable(`By search number${atStep}`, 'search',
      PLACES.map((place) => summaryRow(placeName(place), figuresOf(state.step, place)))),
    summaryTable(`By step${atPlace}`, 'step',
      DATA.steps.map((step) => summaryRow(String(step), figuresOf(step, state.place)))));
}

function drawTable() {
  if (!parts.table.open) return;
  const order = [...state.shown].sort((a, b) => b.gain - a.gain);
  const body = (search) => [nats(search.gain), verdict(search), String(search.step), String(search.place),
    search.question.text, make('a', {href: episodeLink(search)}, search.query || '(empty query)')];
  const head = ['gain', 'episode', 'step', 'search', 'question', 'query'];
  const table = tableOf('Searches', head, order.slice(0, MORE).map(body));
  let count = Math.min(MORE, order.length);
  const more = button('', () => {
    const added = order.slice(count, count + MORE);
    table.querySelector('tbody').append(...added.map((search) => tableRow(body(search))));
    count += added.length;
    label();
  });
  const label = () => {
    more.textContent = `Show ${Math.min(MORE, order.length - count)} more of ${order.length - count}`;
    more.hidden = count >= order.length;
  };
  label();
  parts.rows.replaceChildren(table, more);
}
