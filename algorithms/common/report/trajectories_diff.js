// Differences of two texts, word by word.

// Scripts without spaces between words, which a browser without Intl.Segmenter treats as one word up to a space.
const SCRIPTS = ['Han', 'Hiragana', 'Katakana', 'Thai', 'Lao', 'Khmer', 'Myanmar'];
const UNSPACED = new RegExp(`[${SCRIPTS.map((name) => `\\p{Script=${name}}`).join('')}]`, 'u');
const SEGMENTER = 'Segmenter' in Intl ? new Intl.Segmenter(undefined, {granularity: 'word'}) : null;

// The words of a text as [{text, spaced}, ...]: what white space separates, divided further in scripts without spaces.
// `spaced`: whether white space stands before the word, or the text begins with it.
function wordsOf(text) {
  return text.split(/\s+/u).filter(Boolean).flatMap((part) => {
    const parts = SEGMENTER && UNSPACED.test(part) ? Array.from(SEGMENTER.segment(part), (s) => s.segment) : [part];
    return parts.map((word, place) => ({text: word, spaced: place === 0}));
  });
}

// The longest common subsequence of the words of two texts, and what surrounds it: [{kind, text, words, spaced}, ...].
// The kinds are 'same', 'del' (only in `before`) and 'ins' (only in `after`); neighbours differ in kind, and a deletion
// stands before the insertion that replaces it. `words` is their number; `spaced`: whether a space stands before them.
function wordDiff(before, after) {
  const [old, now] = [before, after].map(wordsOf);
  const lengths = commonLengths(old, now);
  const pieces = [], words = {same: [], del: [], ins: []};
  const put = (kind) => {
    const found = words[kind];
    if (found.length) {
      const text = found.map((word, place) => (place > 0 && word.spaced ? ' ' : '') + word.text).join('');
      pieces.push({kind, text, words: found.length, spaced: pieces.length > 0 && found[0].spaced});
    }
    words[kind] = [];
  };
  for (let i = 0, j = 0; i < old.length || j < now.length;) {
    if (i < old.length && j < now.length && old[i].text === now[j].text) {
      put('del'), put('ins');
      words.same.push(now[j]);
      i++, j++;
      continue;
    }
    put('same');
    if (j === now.length || (i < old.length && lengths[i + 1][j] >= lengths[i][j + 1])) words.del.push(old[i++]);
    else words.ins.push(now[j++]);
  }
  put('same'), put('del'), put('ins');
  return pieces;
}

// What changed from one text to another, as text nodes and elements.
function changes(before, after) {
  return changed(wordDiff(before, after));
}

function changed(pieces) {
  return pieces.flatMap(({kind, text, spaced}) => [spaced && ' ', kind === 'same' ? text : make(kind, {}, text)]);
}

// lengths[i][j]: length of the longest common subsequence of old[i..] and now[j..].
function commonLengths(old, now) {
  const lengths = Array.from({length: old.length + 1}, () => new Uint32Array(now.length + 1));
  for (let i = old.length - 1; i >= 0; i--) {
    for (let j = now.length - 1; j >= 0; j--) {
      const kept = old[i].text === now[j].text;
      lengths[i][j] = kept ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  return lengths;
}
