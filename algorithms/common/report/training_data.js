// What `training_page.py` wrote into the page, and facts about the groups of a question.

const DATA = JSON.parse(document.getElementById('training').textContent);
const ZERO = 1e-6; // smaller advantages are rounding errors
const COLUMNS = 5; // steps that are shown at first
const LABELS = {no_answer: 'no answer', context_full: 'context full', retrieval_failed: 'retrieval failed'};
const state = {question: DATA.questions[0], steps: []};
const parts = {};

// The same query in another case, or with other white space, is the same query.
function plain(query) {
  return query.toLowerCase().split(/\s+/u).filter(Boolean).join(' ');
}

function searches(episode) {
  return episode.turns.filter((turn) => turn.action === 'search');
}

function asked(group) {
  return group.episodes.flatMap(searches);
}

function gains(group) {
  return asked(group).map((turn) => turn.gain).filter((gain) => gain != null);
}

// The distinct queries of a group, most common first: [{text, key, turns}]. `text` is the form of the first one.
function queries(group) {
  if (!group.queries) {
    const found = new Map();
    for (const turn of asked(group)) {
      const key = plain(turn.text ?? '');
      if (!found.has(key)) found.set(key, {key, text: turn.text ?? '', turns: []});
      found.get(key).turns.push(turn);
    }
    group.queries = [...found.values()].sort((a, b) => b.turns.length - a.turns.length);
  }
  return group.queries;
}

// The episodes with their places, those with the most common first query first.
function ordered(group) {
  const first = (episode) => plain(searches(episode)[0]?.text ?? '');
  const counts = new Map();
  for (const episode of group.episodes) counts.set(first(episode), (counts.get(first(episode)) ?? 0) + 1);
  return group.episodes.map((episode, place) => ({episode, place}))
    .sort((a, b) => counts.get(first(b.episode)) - counts.get(first(a.episode))
      || first(a.episode).localeCompare(first(b.episode)) || a.place - b.place);
}

// Evenly spaced steps, with the first and the last.
function someSteps(steps, count) {
  if (steps.length <= count) return steps;
  return Array.from({length: count}, (_, i) => steps[Math.round(i * (steps.length - 1) / (count - 1))]);
}

function range(values) {
  return `${nats(Math.min(...values))} to ${nats(Math.max(...values))}`;
}
