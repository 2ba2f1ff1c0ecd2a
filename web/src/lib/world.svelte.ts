/** Hosts, VMs and tasks as the manager's stream tells them; every page reads from here. */
import { SvelteMap } from "svelte/reactivity";
import { get } from "../api/client";
import { follow, type Connection } from "../api/stream";
import type { HostStatus, Session, StreamEvent, Task, VmStatus } from "../api/types";
import { Series } from "./series.svelte";

const RECENT_TASKS = 200;
const FRAME = 200;

class World {
  hosts = new SvelteMap<string, HostStatus>();
  vms = new SvelteMap<string, VmStatus>();
  tasks = new SvelteMap<string, Task>();
  connection = $state<Connection>("connecting");
  session = $state<Session | null>(null);
  series = new SvelteMap<string, Series>();
  #stop: (() => void) | null = null;
  #waiting: StreamEvent[] = [];
  #timer = 0;
  #fresh = false;

  open(session: Session): void {
    this.session = session;
    this.#stop?.();
    this.#stop = follow({
      reset: () => this.#reset(),
      event: (event) => this.#take(event),
      connection: (state) => (this.connection = state),
      loggedOut: () => this.close(),
    });
    void this.loadTasks();
  }

  close(): void {
    this.#stop?.();
    this.#stop = null;
    this.session = null;
    for (const map of [this.hosts, this.vms, this.tasks, this.series]) map.clear();
  }

  /** The tasks that ended before this page was opened. */
  async loadTasks(): Promise<void> {
    try {
      for (const task of await get<Task[]>(`/tasks?limit=${RECENT_TASKS}`)) this.keep(task);
    } catch {
      // the stream tells what is open; history comes with the next load
    }
  }

  /** Take a task up unless a newer state of it is known. */
  keep(task: Task): void {
    const known = this.tasks.get(task.id);
    if (!known || known.revision <= task.revision) this.tasks.set(task.id, task);
  }

  get may(): { operate: boolean; administer: boolean } {
    const role = this.session?.role ?? "";
    return { operate: role === "operator" || role === "admin", administer: role === "admin" };
  }

  #reset(): void {
    this.#waiting = [];
    this.#fresh = true;
    void this.loadTasks();
  }

  /** Events come by the hundred: they are taken up a few times a second, so the page stays quick. */
  #take(event: StreamEvent): void {
    this.#waiting.push(event);
    if (!this.#timer) this.#timer = window.setTimeout(() => this.#apply(), FRAME);
  }

  #apply(): void {
    this.#timer = 0;
    const batch = this.#waiting;
    this.#waiting = [];
    if (this.#fresh) this.#forgetOthers(batch);
    for (const event of batch) this.#one(event);
  }

  /** After a reset only what was told since is still there; nothing blinks. */
  #forgetOthers(batch: StreamEvent[]): void {
    this.#fresh = false;
    const told = new Set(batch.map((event) => `${event.topic} ${event.key}`));
    for (const name of [...this.hosts.keys()]) if (!told.has(`host ${name}`)) this.hosts.delete(name);
    for (const uuid of [...this.vms.keys()]) if (!told.has(`vm ${uuid}`)) this.vms.delete(uuid);
  }

  #one(event: StreamEvent): void {
    const gone = event.change === "removed";
    if (event.task) this.#task(event.task);
    else if (event.vm) gone ? this.vms.delete(event.key) : this.vms.set(event.key, event.vm);
    else if (event.host) gone ? this.hosts.delete(event.key) : this.hosts.set(event.key, event.host);
  }

  #task(task: Task): void {
    this.keep(task);
    if (!task.progress) return;
    const series = this.series.get(task.id) ?? new Series();
    series.note(task.progress);
    this.series.set(task.id, series);
  }
}

export const world = new World();
