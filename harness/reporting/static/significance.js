// Which differences are significant: the tables' stars (harness/results/statistics.py), for whatever baseline is chosen here.
"use strict";

const LEVEL = 0.05;
const EXACT = 13; // trajectories up to which all flips are counted
const FLIPS = 9999; // of more trajectories so many, drawn at random
const STARRED = new Map();

/** The runs that differ significantly from the baseline `base` in a column: adjusted p (Benjamini-Hochberg over the baseline's group) below 0.05. */
function starred(base, key) {
  const name = `${base.id} ${key}`;
  if (!STARRED.has(name)) {
    const runs = RUNS.filter((run) => run.group === base.group && run !== base);
    const tests = runs.map((run) => [run.id, pValue(differences(run, base, key))]).filter(([, p]) => p !== null).sort(([, a], [, b]) => a - b);
    const last = tests.findLastIndex(([, p], i) => (p * tests.length) / (i + 1) < LEVEL);
    STARRED.set(name, new Set(tests.slice(0, last + 1).map(([id]) => id)));
  }
  return STARRED.get(name);
}

/** Two-sided p-value of a mean of zero by flipping the signs of the differences; null of a single one, whose sign says nothing. */
function pValue(x) {
  if (x.length < 2) return null;
  if (x.every((d) => d === 0)) return 1;
  const sum = x.reduce((a, b) => a + b, 0);
  const slack = 1e-10 * x.reduce((a, b) => a + Math.abs(b), 0); // sums of equal size that were added up in another order
  const [more, less, all] = x.length <= EXACT ? everyFlip(x, sum, slack) : someFlips(x, sum, slack);
  return Math.min(1, (2 * Math.min(more, less)) / all);
}

/** How many of all sign flips give a sum of at least, and of at most, the one that was seen: from one flip to the next a single sign changes. */
function everyFlip(x, sum, slack) {
  const doubled = x.map((d) => -2 * d), all = 2 ** x.length;
  let more = 1, less = 1;
  for (let i = 1, now = sum; i < all; i++) {
    const at = 31 - Math.clz32(i & -i);
    now += doubled[at];
    doubled[at] = -doubled[at];
    if (now >= sum - slack) more++;
    if (now <= sum + slack) less++;
  }
  return [more, less, all];
}

/** The same of random flips, always the same ones, and of the one that was seen. */
function someFlips(x, sum, slack) {
  let more = 1, less = 1, seed = 1;
  if (x.every((d) => d > 0) || x.every((d) => d < 0)) return [1, 1, FLIPS + 1]; // no other flip is as far
  for (let i = 0; i < FLIPS; i++) {
    let now = 0;
    for (let j = 0, bits = 0; j < x.length; j++, bits >>>= 1) {
      if (j % 24 === 0) {
        seed ^= seed << 13; seed ^= seed >>> 17; seed ^= seed << 5; // xorshift32
        bits = seed >>> 8;
      }
      now += bits & 1 ? x[j] : -x[j];
    }
    if (now >= sum - slack) more++;
    if (now <= sum + slack) less++;
  }
  return [more, less, FLIPS + 1];
}
