// The address of a view, in the fragment of the page's address, so that a view can be sent as a link:
//
//   trajectories.html#trajectory=7:q12:3&algorithm=grpo&view=group&answer=wrong&search=paris
//
// A file registers a part of the state once, at its top level, with its name in the address and two functions:
//
//   addressed('compared', () => (state.compared ? 'yes' : ''), (text) => {
//     state.compared = text === 'yes';
//     return text === 'yes';
//   });
//
// `read` returns the part as text, '' for its default, which the address leaves out. `write` sets the state from a
// text, '' for the default, and returns false for one that it doesn't know, after setting the default: the page then
// shows a note. Neither draws. Whatever changes the state ends in draw() or filter(), which update the address.

const PARTS = new Map();
const SETTLED = 300; // milliseconds without a change, after which the address is updated
const address = {known: '', timer: null}; // known: fragment of the state that the address bar shows

function addressed(name, read, write) {
  PARTS.set(name, {read, write});
}

function fragment() {
  const pairs = [...PARTS].map(([name, {read}]) => [name, read()]).filter(([, text]) => text);
  return String(new URLSearchParams(pairs)).replaceAll('%3A', ':');
}

function link() {
  return `${location.href.split('#')[0]}#${fragment()}`;
}

// Changes up to a pause are one entry in the browser's history; a search that is typed in parts is one, too.
function updateAddress() {
  clearTimeout(address.timer);
  address.timer = setTimeout(() => {
    const now = fragment();
    if (now === address.known) return;
    note('');
    const searches = [address.known, now].map((text) => new URLSearchParams(text).get('search'));
    const typing = document.activeElement === parts.search && searches.every(Boolean);
    history[typing ? 'replaceState' : 'pushState'](null, '', link());
    address.known = now;
  }, SETTLED);
}

// Sets the whole state from the address and draws it.
function readAddress() {
  clearTimeout(address.timer);
  const found = new URLSearchParams(location.hash.slice(1));
  const unknown = [...new Set(found.keys())].filter((name) => name && !PARTS.has(name));
  for (const [name, {write}] of PARTS) {
    const text = found.get(name) ?? '';
    if (write(text) === false && text) unknown.push(`${name}=${text}`);
  }
  const wanted = state.item;
  filter();
  const hidden = wanted && wanted !== state.item;
  note([
    unknown.length && `Parts of the address that this page doesn't know are ignored: ${unknown.join(', ')}. `
      + '(The page of a run shows other steps once more have been recorded.)',
    hidden && 'The filters in the address hide the trajectory that it names.',
  ].filter(Boolean).join(' '));
  address.known = fragment();
}

function note(text) {
  parts.note.textContent = text;
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(link());
    note('The link to this view is copied.');
  } catch { // no clipboard on a page that a server sends without encryption
    note(`The browser doesn't allow copying. The link is ${link()}`);
  }
}
