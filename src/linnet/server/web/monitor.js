// Speed and memory while answers run: the speed from the tokens as they come, the memory from the server's counters.
import { metrics } from "./api.js";

const WINDOW_MS = 1000;
const PLOTTED = 240;

/** How fast one answer comes. speeds: tokens a second, over the second before each sample, or since the last one; count: tokens so far;
 * whole: the speed of all of it, once it is over. */
export class Meter {
  constructor() {
    Object.assign(this, { speeds: [], count: 0, whole: null, arrivals: [], first: null, sampled: null, latest: performance.now() });
  }

  arrived(tokens) {
    this.latest = performance.now();
    if (!tokens) return;
    this.first ??= this.latest;
    this.count += tokens;
    this.arrivals.push({ at: this.latest, tokens });
  }

  sample() {
    if (this.first === null) return; // the prompt is read
    const now = performance.now();
    const since = Math.max(this.first, Math.min(now - WINDOW_MS, this.sampled ?? this.first));
    const span = Math.max(WINDOW_MS / 4, now - since);
    this.sampled = now;
    this.arrivals = this.arrivals.filter(({ at }) => at >= since);
    const tokens = this.arrivals.reduce((sum, arrival) => sum + arrival.tokens, 0);
    this.speeds = [...this.speeds, (1000 * tokens) / span].slice(-PLOTTED);
  }

  /** speed: of the whole, as the server measured it; of an answer that was over before a sample was taken it is all that there is. */
  end(speed) {
    this.whole = speed ?? null;
    if (speed && !this.speeds.length) this.speeds = [speed];
  }

  /** Seconds in which nothing came. */
  get silence() {
    return (performance.now() - this.latest) / 1000;
  }
}

/** The memory of the server. shares: of the pages of the KV cache, in per cent; bytes: of the whole process, where it tells; error: why not. */
export class Memory {
  constructor() {
    Object.assign(this, { shares: [], bytes: null, error: null, asking: null });
  }

  /** One question at a time, however slowly it is answered. */
  ask(model) {
    this.asking ??= this.read(model).finally(() => (this.asking = null));
    return this.asking;
  }

  async read(model) {
    try {
      const found = await metrics(model);
      const share = (100 * found.linnet_pages_used) / found.linnet_pages;
      if (Number.isFinite(share)) this.shares = [...this.shares, share].slice(-PLOTTED);
      this.bytes = found.process_resident_memory_bytes ?? null;
      this.error = null;
    } catch (error) {
      this.error = error.message;
    }
  }
}
