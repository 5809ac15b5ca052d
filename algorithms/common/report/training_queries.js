// The queries of a group, compared word by word with those of the step before it.

const FIRST = 6; // queries that are shown at first
const ALIKE = 0.3; // share of common words from which a query counts as a changed one, not as a new one

// The share of words that two texts have in common, in order: 1 if they are equal, 0 if there is none.
function likeness(pieces) {
  const counts = {same: 0, del: 0, ins: 0};
  for (const {kind, words} of pieces) counts[kind] += words;
  return 2 * counts.same / Math.max(1, 2 * counts.same + counts.del + counts.ins);
}

// The earlier query that is most like one, the more common one of equals: {query, pieces}, or null if none is alike.
function origin(query, earlier) {
  let best = null, most = ALIKE;
  for (const other of earlier) {
    const pieces = wordDiff(other.text, query.text);
    const found = other.key === query.key ? 1 : likeness(pieces);
    if (found > most || (found === 1 && other.key === query.key)) [best, most] = [{query: other, pieces}, found];
  }
  return best;
}

function counted(query, ...text) {
  return [make('span', {class: 'times'}, `${query.turns.length}×`), ' ', make('span', {class: 'asked'}, ...text)];
}

function queryRow(query, before) {
  const earlier = before && queries(before);
  const found = earlier && origin(query, earlier);
  const known = found && found.query.key === query.key;
  const measured = query.turns.map((turn) => turn.gain).filter((gain) => gain != null);
  const changes = [
    before && known && `${found.query.turns.length}× at step ${before.step}`,
    before && !known && `${found ? 'changed' : 'new'} since step ${before.step}`,
    measured.length > 0 && `gain ${nats(mean(measured))}`,
  ].filter(Boolean).join(' · ');
  return make('li', {class: !before || known ? 'known' : found ? 'altered' : 'new'},
    ...counted(query, ...(found && !known ? changed(found.pieces) : [query.text || '(empty)'])),
    make('span', {class: 'quiet'}, changes));
}

function queryList(group, before) {
  const all = queries(group);
  if (!all.length) return [make('p', {class: 'quiet'}, 'No searches.')];
  const rows = all.map((query) => queryRow(query, before));
  const gone = before ? queries(before).filter((query) => !all.some((now) => now.key === query.key)) : [];
  const rest = rows.length - FIRST;
  return [
    make('ol', {class: 'queries'}, ...rows.slice(0, FIRST)),
    rest > 0 && folded(`${rest} more`, make('ol', {class: 'queries'}, ...rows.slice(FIRST))),
    gone.length > 0 && folded(`${gone.length} of step ${before.step} not sent any more`,
      make('ol', {class: 'queries'},
        ...gone.map((query) => make('li', {}, ...counted(query, query.text || '(empty)'))))),
  ].filter(Boolean);
}
