/** The phases of a move on a line, and what its steering would do, in words. Pure. */
import type { Phase, Task } from "../api/types";

export interface Step {
  name: string;
  state: "done" | "now" | "next" | "failed";
  seconds: number | null;
}

const LINE: Phase[] = ["preparing", "copying-disks", "copying-memory", "switching-over", "cleaning-up"];
const NAMES: Record<string, string> = {
  preparing: "Prepare",
  "copying-disks": "Copy disks",
  "copying-memory": "Copy memory",
  "switching-over": "Switch over",
  "cleaning-up": "Clean up",
};

export function steps(task: Task): Step[] {
  const line = LINE.filter((phase) => applies(task, phase));
  const phase = task.progress?.phase;
  const at = phase ? line.indexOf(phase) : -1;
  const times = new Map((task.report?.phases ?? []).map((it) => [it.phase, it.seconds]));
  return line.map((it, place) => ({
    name: NAMES[it] ?? it,
    state: stateOf(task, place, at),
    seconds: times.get(it) ?? null,
  }));
}

function stateOf(task: Task, place: number, at: number): Step["state"] {
  if (task.state === "succeeded") return "done";
  if (at < 0 || place > at) return "next";
  if (place < at) return "done";
  return task.state === "running" ? "now" : "failed";
}

function applies(task: Task, phase: Phase): boolean {
  if (!task.plan) return true;
  if (phase === "copying-disks") return task.plan.disks.length > 0;
  if (phase === "copying-memory") return task.plan.source.name !== task.plan.destination.name && task.plan.power !== "off";
  return true;
}

export function isOpen(task: Task): boolean {
  return task.state === "queued" || task.state === "running";
}

/** What a click would do now, said beside the button. */
export function cancelWords(task: Task): string {
  if (task.state === "queued") return "It has not begun: it is taken out of the queue and nothing changes.";
  const copied = task.progress ? " What was copied is thrown away." : "";
  return `${task.vm} goes on running on ${task.source}; ${task.destination} is cleaned up.${copied}`;
}
