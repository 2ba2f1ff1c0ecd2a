/** What somebody should look at, worst first. Pure. */
import type { HostStatus, Task, VmStatus } from "../api/types";
import { percent } from "./format";

export interface Notice {
  level: "danger" | "warning";
  what: string;
  href: string;
}

const FULL = 0.9;
const PRESSURE = 0.2;
const RECENT_MS = 24 * 3600 * 1000;

export function notices(hosts: HostStatus[], vms: VmStatus[], tasks: Task[], now = Date.now()): Notice[] {
  const found = [...hosts.flatMap(ofHost), ...vms.flatMap(ofVm), ...tasks.flatMap((task) => ofTask(task, now))];
  return found.sort((a, b) => Number(a.level === "warning") - Number(b.level === "warning"));
}

function ofHost(host: HostStatus): Notice[] {
  const href = `#/hosts/${encodeURIComponent(host.name)}`;
  const say = (level: Notice["level"], what: string): Notice => ({ level, what: `${host.name}: ${what}`, href });
  if (host.powered_off) return [];
  if (!host.reachable) return [say("danger", `does not answer${host.reason ? `: ${host.reason}` : ""}`)];
  const found: Notice[] = [];
  for (const remains of host.maintenance?.remains ?? [])
    found.push(say("warning", `${remains.vm} stays in spite of maintenance: ${remains.why}`));
  for (const store of host.info?.datastores ?? [])
    if (store.size > 0 && store.free / store.size < 1 - FULL)
      found.push(say("warning", `datastore ${store.name} is ${percent(1 - store.free / store.size)} full`));
  const load = host.info?.load;
  if (load && load.memory_total > 0 && load.memory_used / load.memory_total > FULL)
    found.push(say("warning", `memory is ${percent(load.memory_used / load.memory_total)} used`));
  const pressures = load ? { processor: load.cpu_pressure, memory: load.memory_pressure, disk: load.io_pressure } : {};
  for (const [what, share] of Object.entries(pressures))
    if ((share ?? 0) > PRESSURE) found.push(say("warning", `${percent(share ?? 0)} of the time something waits for the ${what}`));
  return found;
}

function ofVm(vm: VmStatus): Notice[] {
  const href = `#/vms/${vm.definition.uuid}`;
  if (vm.state === "crashed") return [{ level: "danger", what: `${vm.definition.name}: its QEMU ended on ${vm.host}`, href }];
  return [];
}

function ofTask(task: Task, now: number): Notice[] {
  const href = `#/tasks/${task.id}`;
  const detail = typeof task.problem?.["detail"] === "string" ? task.problem["detail"] : "";
  if (task.state === "attention") return [{ level: "danger", what: `${task.vm || task.source}: ${detail}`, href }];
  const ended = task.ended ? Date.parse(task.ended) : now;
  if (task.state === "failed" && now - ended < RECENT_MS)
    return [{ level: "warning", what: `${task.kind} of ${task.vm || task.source} failed: ${detail}`, href }];
  return [];
}
