// The columns of the steps, the choice of question and steps, and the address; starts the page.

// The sum of advantages, in the colour of its sign.
function advantage(value, most, what) {
  if (value == null) return null;
  const element = make('span', {class: `advantage ${['minus', 'zero', 'plus'][sign(value) + 1]}`, title: what},
    signed(value, 2));
  element.style.setProperty('--weight', most ? Math.min(1, Math.abs(value) / most) : 0);
  return element;
}

function largest(question, of) {
  const values = question.groups.flatMap((group) => group.episodes.flatMap(of));
  return values.reduce((most, value) => Math.max(most, Math.abs(value ?? 0)), 0);
}

// A search can be opened, to see what it found.
function turnRow(turn, most) {
  const said = [make('span', {class: 'action'}, turn.action), ' ',
    make('span', {class: 'asked'}, turn.text.trim() ? turn.text : '(no text)'), ' ',
    turn.gain != null && make('span', {class: 'gain'}, `gain ${nats(turn.gain)}`), ' ',
    advantage(turn.advantage, most, 'Sum of the advantages of the turn’s tokens')].filter(Boolean);
  if (turn.action !== 'search') return make('li', {}, ...said);
  const found = turn.found.length ? turn.found.map((title) => make('li', {}, title)) : [make('li', {}, 'nothing')];
  return make('li', {}, make('details', {}, make('summary', {}, ...said),
    make('ol', {class: 'found', 'aria-label': 'Passages found'}, ...found)));
}

function episodeRow({episode, place}, most) {
  const [whole, turn] = most;
  const given = episode.prediction ?? LABELS[episode.stop] ?? 'no answer';
  return make('li', {class: 'episode'},
    make('p', {class: 'verdict'}, make('span', {class: 'quiet'}, `${place + 1}.`), ' ',
      make('span', {class: episode.correct ? 'good' : 'bad'}, `${episode.correct ? '✓' : '✗'} ${given}`),
      ' ', advantage(episode.advantage, whole, 'Sum of the advantages of the episode’s tokens')),
    make('ol', {class: 'turns'}, ...episode.turns.map((one) => turnRow(one, turn))));
}

function facts(group) {
  const n = group.episodes.length, counts = group.episodes.map((episode) => searches(episode).length);
  const measured = gains(group);
  return make('dl', {class: 'facts'},
    fact('Correct', `${Math.round(group.share * n)} of ${n}`,
      `95% interval ${group.interval.map(percent).join(' to ')}`),
    fact('Searches', number(mean(counts)), `per episode, ${Math.min(...counts)} to ${Math.max(...counts)}, n ${n}`),
    measured.length > 0
      && fact('Gain', nats(mean(measured)), `nats per search, ${range(measured)}, n ${measured.length}`),
    fact('Distinct queries', String(queries(group).length), `of ${plural(asked(group).length, 'search')}`));
}

function column(step, before, most) {
  const group = state.question.groups.find((one) => one.step === step);
  const heading = make('h3', {id: `step-${step}`}, step === 0 ? 'Before training' : `Step ${step}`);
  if (!group) {
    return make('section', {class: 'column', 'aria-labelledby': `step-${step}`}, heading,
      make('p', {class: 'quiet'}, 'Not recorded: retrieval failed for all episodes.'));
  }
  return make('section', {class: 'column', 'aria-labelledby': `step-${step}`}, heading, facts(group),
    make('div', {}, make('h4', {}, before ? `Queries, compared with step ${before.step}` : 'Queries'),
      ...queryList(group, before)),
    make('div', {}, make('h4', {}, `The ${plural(group.episodes.length, 'episode')}`),
      make('ol', {class: 'episodes'}, ...ordered(group).map((one) => episodeRow(one, most)))));
}

function draw() {
  const question = state.question;
  const most = [largest(question, (episode) => [episode.advantage]),
    largest(question, (episode) => episode.turns.map((turn) => turn.advantage))];
  const groups = state.steps.map((step) => question.groups.find((one) => one.step === step));
  const advantages = question.groups.some((group) => group.episodes.some((episode) => episode.advantage != null));
  const columns = state.steps.map((step, place) => column(step, groups.slice(0, place).findLast(Boolean), most));
  parts.content.replaceChildren(
    make('h2', {}, question.text),
    make('p', {class: 'quiet'}, `Accepted: ${question.golds.join(' · ')} · data set ${question.dataset}`),
    charts(question), table(question), stepChoice(),
    make('p', {class: 'quiet'}, 'Gains are in nats. ' + (advantages
      ? 'Numbers in colour are sums of advantages over the tokens of a turn or of an episode.'
      : 'No advantages were recorded.')),
    make('div', {
      class: 'columns', tabindex: 0, role: 'region', 'aria-label': 'The groups at the selected steps',
    }, ...columns));
}

function stepChoice() {
  const toggle = (step) => {
    const chosen = state.steps.includes(step) ? state.steps.filter((one) => one !== step) : [...state.steps, step];
    show(state.question, chosen);
    document.getElementById(`choose-${step}`).focus();
  };
  const choices = DATA.steps.map((step) => make('button', {
    type: 'button', id: `choose-${step}`, 'aria-pressed': String(state.steps.includes(step)), click: () => toggle(step),
  }, String(step)));
  return make('div', {class: 'choice', role: 'group', 'aria-label': 'Steps to compare'}, 'Steps', ...choices);
}

function show(question, steps) {
  state.question = question;
  state.steps = DATA.steps.filter((step) => steps.includes(step));
  parts.question.value = question.name;
  const fragment = new URLSearchParams({question: question.name, steps: state.steps.join(',')});
  history.replaceState(null, '', `#${String(fragment).replaceAll('%3A', ':').replaceAll('%2C', ',')}`);
  draw();
}

// The question and the steps that the address names; those of the beginning where it names none that is here.
function readAddress() {
  const found = new URLSearchParams(location.hash.slice(1));
  const question = DATA.questions.find((one) => one.name === found.get('question')) ?? DATA.questions[0];
  const named = (found.get('steps') ?? '').split(',').filter(Boolean).map(Number);
  const steps = named.filter((step) => DATA.steps.includes(step));
  show(question, steps.length ? steps : someSteps(DATA.steps, COLUMNS));
}

function start() {
  const names = DATA.questions.map((question) => [question.name, `${question.text} (${question.dataset})`]);
  const [field, list] = select('Question', names, (name) =>
    show(DATA.questions.find((one) => one.name === name), state.steps));
  parts.question = list;
  parts.content = make('div', {});
  document.querySelector('main').append(field, parts.content);
  window.addEventListener('hashchange', readAddress);
  readAddress();
}

if (DATA.questions.length) start();
else document.querySelector('main').append(make('p', {}, 'No tracked question has been recorded.'));
