// Differences of two texts, word by word.

// The longest common subsequence of the words of two texts, and what surrounds it, as [[kind, text], ...]. The kinds
// are 'same', 'del' (only in `before`) and 'ins' (only in `after`); neighbours differ in kind, and a deletion stands
// before the insertion that replaces it. Words are separated by white space, and joined by one space in the result.
function wordDiff(before, after) {
  const [old, now] = [before, after].map((text) => text.split(/\s+/u).filter(Boolean));
  const lengths = commonLengths(old, now);
  const pieces = [], words = {same: [], del: [], ins: []};
  const put = (kind) => {
    if (words[kind].length) pieces.push([kind, words[kind].join(' ')]);
    words[kind] = [];
  };
  for (let i = 0, j = 0; i < old.length || j < now.length;) {
    if (i < old.length && j < now.length && old[i] === now[j]) {
      put('del'), put('ins');
      words.same.push(old[i]);
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

// lengths[i][j]: length of the longest common subsequence of old[i..] and now[j..].
function commonLengths(old, now) {
  const lengths = Array.from({length: old.length + 1}, () => new Uint32Array(now.length + 1));
  for (let i = old.length - 1; i >= 0; i--) {
    for (let j = now.length - 1; j >= 0; j--) {
      lengths[i][j] = old[i] === now[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  return lengths;
}
