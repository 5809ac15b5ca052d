// Observations and their information gain.

function highlighted(text, spans) {
  const characters = Array.from(text); // spans are in characters, not in UTF-16 units
  const pieces = [];
  let at = 0;
  for (const [start, end] of spans) {
    pieces.push(characters.slice(at, start).join(''), make('mark', {}, characters.slice(start, end).join('')));
    at = end;
  }
  return [...pieces, characters.slice(at).join('')];
}

function passage(found) {
  const [, title, text] = DATA.passages[found.passage];
  return make('li', {class: 'passage'},
    make('strong', {}, ...highlighted(title, found.title_spans)),
    found.supporting && chip('★ supporting', 'good'),
    found.text_spans.length + found.title_spans.length > 0 && chip('contains the answer', 'gold'),
    make('span', {class: 'quiet'}, ` score ${number(found.score)}`),
    make('p', {}, ...highlighted(text, found.text_spans)));
}

function observation(turn) {
  const text = DATA.texts[turn.observation];
  if (!text.trim()) return null;
  const raw = make('p', {class: 'raw'}, text.trim());
  const heading = turn.passages.length ? `Observation: ${plural(turn.passages.length, 'passage')}` : 'Observation';
  return make('div', {class: 'observation'},
    make('p', {class: 'heading'}, heading, chip('masked, not in the loss')),
    turn.passages.length > 0 && make('ol', {}, ...turn.passages.map(passage)),
    turn.passages.length ? folded('raw text', raw) : raw);
}

function floor(group) {
  group.floor ??= Math.min(-1, ...group.trajectories.flatMap((row) => row.turns)
    .flatMap((turn) => [turn.gain, ...Object.values(turn.gain_of)]).filter(Boolean)
    .flatMap((gain) => [gain.logprob_real ?? 0, gain.logprob_baseline ?? 0]));
  return group.floor;
}

function gainBar(turn, group) {
  const gain = gainOf(turn);
  if (!gain) {
    const why = turn.passages.length ? 'not measured' : 'none, no passages found';
    return turn.action === 'search' && make('p', {class: 'quiet'}, `Information gain: ${why}`);
  }
  const lowest = floor(group), percent = (value) => 100 * (1 - Math.max(lowest, value ?? lowest) / lowest);
  const real = percent(gain.logprob_real), base = percent(gain.logprob_baseline);
  const other = gain.baseline_evidences.length ? 'after baseline evidence' : 'without them';
  const at = (kind, left) => {
    const dot = make('span', {class: kind});
    dot.style.left = `${left}%`; // the content security policy allows no style attributes
    return dot;
  };
  const bar = paint(make('span', {class: 'bar'}), gain.value ?? 0, 1);
  bar.style.left = `${Math.min(real, base)}%`;
  bar.style.width = `${Math.abs(real - base)}%`;
  return make('div', {class: 'gain'},
    make('p', {class: 'heading'}, 'Information gain ', make('strong', {}, `${signed(gain.value)} nats`)),
    make('div', {class: 'axis', 'aria-hidden': 'true'}, bar, at('dot base', base), at('dot real', real)),
    make('p', {class: 'ends', 'aria-hidden': 'true'}, make('span', {}, number(lowest)), make('span', {}, '0')),
    make('p', {}, 'log-prob of the gold answer: ', make('span', {class: 'key real'}), ' after these passages ',
      make('b', {}, number(gain.logprob_real)), ', ', make('span', {class: 'key base'}), ` ${other} `,
      make('b', {}, number(gain.logprob_baseline))),
    gain.baseline_evidences.length > 0 && folded('baseline evidence',
      ...gain.baseline_evidences.map((text) => make('p', {class: 'raw'}, DATA.texts[text].trim()))));
}
