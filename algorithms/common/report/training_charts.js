// Small multiples: what changes over the steps for one question. Each episode or search is a point, so that the noise
// of a small group is visible; the line connects the means.

const SIZE = {width: 300, height: 150, left: 44, right: 10, top: 10, bottom: 24};
const SVG = 'http://www.w3.org/2000/svg';

function shape(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// One chart; `series`: for each group {step, mean, points, low, high}. `bounds` includes at least these values.
function chart(title, unit, series, bounds, format) {
  const values = series.flatMap(({mean, points, low, high}) => [mean, ...points ?? [], low, high])
    .filter((value) => value != null);
  const [least, most] = [Math.min(...bounds, ...values), Math.max(...bounds, ...values)];
  const steps = DATA.steps, span = steps.at(-1) - steps[0];
  const inner = [SIZE.width - SIZE.left - SIZE.right, SIZE.height - SIZE.top - SIZE.bottom];
  const x = (step) => SIZE.left + inner[0] * (span ? 0.04 + 0.92 * (step - steps[0]) / span : 0.5);
  const y = (value) => SIZE.top + inner[1] * (most > least ? (most - value) / (most - least) : 0.5);
  const drawn = [];
  const apart = (value) => value === 0 || Math.abs(y(value) - y(0)) > 14; // else the labels would cover each other
  for (const value of new Set([least, Math.min(most, Math.max(least, 0)), most].filter(apart))) {
    drawn.push(shape('line', {class: 'grid', x1: SIZE.left, x2: SIZE.width - SIZE.right, y1: y(value), y2: y(value)}),
      shape('text', {class: 'tick', x: SIZE.left - 5, y: y(value) + 4, 'text-anchor': 'end'}, format(value)));
  }
  for (const step of someSteps(steps, 5)) {
    drawn.push(shape('text', {class: 'tick', x: x(step), y: SIZE.height - 6, 'text-anchor': 'middle'}, String(step)));
  }
  for (const {step, points = [], low, high} of series) {
    // Beside each other, as far as they would cover each other.
    points.forEach((value, place) => drawn.push(shape('circle',
      {class: 'one', cx: x(step) + 7 * ((place + 0.5) / points.length - 0.5), cy: y(value), r: 2.2})));
    if (low != null) drawn.push(shape('line', {class: 'whisker', x1: x(step), x2: x(step), y1: y(low), y2: y(high)}));
  }
  const means = series.filter(({mean}) => mean != null);
  drawn.push(shape('polyline', {class: 'means', points: means.map((one) => `${x(one.step)},${y(one.mean)}`).join(' ')}),
    ...means.map((one) => shape('circle', {class: 'mean', cx: x(one.step), cy: y(one.mean), r: 3.5})));
  const words = means.map((one) => `step ${one.step}: ${format(one.mean)}`).join(', ');
  return make('figure', {class: 'multiple'}, make('figcaption', {}, title, ' ', make('span', {class: 'quiet'}, unit)),
    shape('svg', {
      viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, role: 'img', 'aria-label': `${title}. ${words}`,
    }, ...drawn));
}

function short(value) {
  return Number.isInteger(value) ? String(value).replace('-', '−') : number(value, 2);
}

function charts(question) {
  const groups = question.groups;
  const measured = groups.some((group) => gains(group).length);
  return make('div', {class: 'multiples'},
    chart('Correct answers', 'share of episodes, with 95% intervals', groups.map((group) => ({
      step: group.step, mean: group.share, low: group.interval[0], high: group.interval[1],
    })), [0, 1], percent),
    measured && chart('Information gain', 'nats, of each search', groups.map((group) => ({
      step: group.step, mean: gains(group).length ? mean(gains(group)) : null, points: gains(group),
    })), [0], short),
    chart('Searches', 'of each episode', groups.map((group) => {
      const counts = group.episodes.map((episode) => searches(episode).length);
      return {step: group.step, mean: mean(counts), points: counts};
    }), [0], short),
    chart('Distinct queries', 'share of the group’s queries', groups.map((group) => ({
      step: group.step, mean: asked(group).length ? queries(group).length / asked(group).length : null,
    })), [0, 1], percent));
}

// The values of the charts.
function table(question) {
  const head = ['step', 'episodes', 'correct', '95% interval', 'searches per episode', 'gain per search, nats',
    'queries', 'distinct'];
  const rows = question.groups.map((group) => [
    String(group.step), String(group.episodes.length), percent(group.share), group.interval.map(percent).join(' to '),
    number(asked(group).length / group.episodes.length), gains(group).length ? nats(mean(gains(group))) : '–',
    String(asked(group).length), String(queries(group).length),
  ]);
  return folded('Values of the charts', tableOf('Values of the charts', head, rows));
}
