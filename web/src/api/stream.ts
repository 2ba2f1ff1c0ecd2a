/**
 * The manager's one stream of events, read for ever: after a break it goes on behind the last event that came.
 *
 * `fetch` and not EventSource, which gives up for good on an answer that is no stream (a manager that starts, a session
 * that ended) and does not say which it was.
 */
import { SseParser } from "./sse";
import type { StreamEvent } from "./types";

export type Connection = "connecting" | "live" | "broken";

export interface Listener {
  reset(): void;
  event(event: StreamEvent): void;
  connection(state: Connection): void;
  loggedOut(): void;
}

const FIRST_WAIT = 500;
const LONGEST_WAIT = 5000;
/** The manager says something every 15 s; after so many ms of silence the connection is dead. */
const SILENCE = 40_000;

export function follow(listener: Listener): () => void {
  const ended = new AbortController();
  void run(listener, ended.signal);
  return () => ended.abort();
}

async function run(listener: Listener, ended: AbortSignal): Promise<void> {
  let last = "";
  let wait = FIRST_WAIT;
  while (!ended.aborted) {
    listener.connection("connecting");
    try {
      const came = await readOnce(listener, ended, last, (id) => {
        last = id;
        wait = FIRST_WAIT;
      });
      if (came === "logged out") return listener.loggedOut();
    } catch {
      // whatever broke it, it is tried again
    }
    if (ended.aborted) return;
    listener.connection("broken");
    await new Promise((done) => setTimeout(done, wait));
    wait = Math.min(LONGEST_WAIT, wait * 2);
  }
}

async function readOnce(
  listener: Listener,
  ended: AbortSignal,
  after: string,
  seen: (id: string) => void,
): Promise<"ended" | "logged out"> {
  const silent = new AbortController();
  const headers: Record<string, string> = after ? { "Last-Event-ID": after } : {};
  const signal = AbortSignal.any([ended, silent.signal]);
  const answer = await fetch("/api/v1/events", { headers, signal, credentials: "same-origin" });
  if (answer.status === 401) return "logged out";
  if (!answer.ok || !answer.body) throw new Error(`status ${answer.status}`);
  listener.connection("live");
  const parser = new SseParser();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let timer = setTimeout(() => silent.abort(), SILENCE);
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return "ended";
      clearTimeout(timer);
      timer = setTimeout(() => silent.abort(), SILENCE);
      for (const message of parser.push(value)) {
        if (message.event === "reset") listener.reset();
        else listener.event(JSON.parse(message.data) as StreamEvent);
        if (message.id) seen(message.id);
      }
    }
  } finally {
    clearTimeout(timer);
  }
}
