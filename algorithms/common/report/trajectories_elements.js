'use strict';
// Elements and numbers. Data enters the document only as text nodes.

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === 'function') element.addEventListener(name, value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child || child === ''));
  return element;
}

function chip(text, kind) {
  return make('span', {class: `chip ${kind ?? ''}`}, text);
}

function folded(summary, ...children) {
  return make('details', {}, make('summary', {}, summary), ...children);
}

function select(label, options, onChange) {
  const list = make('select', {'aria-label': label, change: (event) => onChange(event.target.value)},
    ...options.map(([value, text]) => make('option', {value}, text)));
  return [make('label', {class: 'field'}, make('span', {}, label), list), list];
}

function button(text, click, label) {
  return make('button', {type: 'button', click, 'aria-label': label}, text);
}

const NARROW = matchMedia('(max-width: 699px)'); // as in trajectories.css

function narrow() {
  return NARROW.matches;
}

function number(value, digits = 3) {
  if (value == null) return 'not finite';
  if (value === 0) return '0';
  const size = Math.abs(value);
  return `${value < 0 ? '−' : ''}${size < 10 ** digits ? size.toPrecision(digits) : size.toFixed(0)}`;
}

function signed(value, digits) {
  return `${value > 0 ? '+' : ''}${number(value, digits)}`;
}

function sign(value) {
  return Math.abs(value) < ZERO ? 0 : Math.sign(value);
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function plural(count, word) {
  if (count === 1) return `1 ${word}`;
  return `${count} ${word.endsWith('y') ? `${word.slice(0, -1)}ies` : `${word}${word.endsWith('ch') ? 'es' : 's'}`}`;
}
