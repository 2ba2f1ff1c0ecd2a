/** The figures of one move over time, for charts. Bounded: when it is full, every second point is let go. */
import type { MoveProgress } from "../api/types";

const MOST = 600;

export interface Point {
  at: number;
  values: Record<string, number>;
}

export class Series {
  points = $state.raw<Point[]>([]);
  #last: MoveProgress | null = null;

  note(progress: MoveProgress): void {
    const before = this.#last;
    if (before && progress.elapsed_seconds <= before.elapsed_seconds) return;
    this.#last = progress;
    const values = figures(progress, before);
    const kept = this.points.length < MOST ? this.points : this.points.filter((_, place) => place % 2 === 0);
    this.points = [...kept, { at: progress.elapsed_seconds, values }];
  }
}

/** What is drawn: rates as told, and those of counters from one state to the next. Pure. */
export function figures(now: MoveProgress, before: MoveProgress | null): Record<string, number> {
  const values: Record<string, number> = { "memory dirty": now.memory.dirty_rate, throttle: now.memory.throttle };
  for (const nic of now.nics) values[`nic ${nic.nic}`] = nic.rate;
  const seconds = before ? now.elapsed_seconds - before.elapsed_seconds : 0;
  if (!before || seconds <= 0) return values;
  const writes = sum(now, "writes") - sum(before, "writes");
  const held = sum(now, "held_seconds") - sum(before, "held_seconds");
  if (writes >= 0) {
    values["writes"] = writes / seconds;
    values["latency"] = writes > 0 ? (held / writes) * 1000 : 0;
  }
  return values;
}

function sum(progress: MoveProgress, field: "writes" | "held_seconds"): number {
  return progress.disks.reduce((total, disk) => total + disk[field], 0);
}
