// The time that every library sees: a number of milliseconds that only `advance`
// changes. Loaded before anything that might keep the real clock.

const RealDate = globalThis.Date;
const intervals = new Set();
let now = 0;

globalThis.Date = class extends RealDate {
  constructor(...fields) {
    super(...(fields.length === 0 ? [now] : fields));
  }

  static now() {
    return now;
  }
};

// What is no length of an interval is taken for a millisecond (Node.js, Timers).
const length = (ms) => (ms >= 1 && ms <= 2 ** 31 - 1 ? Math.trunc(ms) : 1);

globalThis.setInterval = (run, ms) => {
  const interval = { run, ms: length(ms), next: now + length(ms), unref: () => interval };
  intervals.add(interval);
  return interval;
};
globalThis.clearInterval = (interval) => intervals.delete(interval);

// Sets the time of an empty world.
export function begin(time) {
  intervals.clear();
  now = time;
}

// Lets time pass until `time`, and what is due in between happen.
export function advance(time) {
  for (const interval of intervals) {
    const missed = Math.floor((time - interval.next) / interval.ms) + 1;
    // Whoever does the same twice with nothing in between has done it for good.
    for (let count = 0; count < Math.min(missed, 2); count += 1) {
      interval.run();
    }
    interval.next += Math.max(missed, 0) * interval.ms;
  }
  now = time;
}
