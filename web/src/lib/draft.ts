/** A move as the wizard has it, and the request that it makes for each VM. Pure. */
import type { Problem } from "../api/client";
import type { DiskRequest, Finding, MoveCheck, MoveRequest, Policy, VmStatus } from "../api/types";

export type Kind = "host" | "storage" | "unified";

export interface Draft {
  vms: string[];
  kind: Kind;
  host: string;
  datastore: string;
  disks: Record<string, { datastore: string; format: string }>;
  policy: Policy;
  downtime: number;
  bandwidth: string;
  latency: string;
  switchover: string;
  at: string;
  window: string;
  priority: string;
  verify: boolean;
}

/** What a check said of one VM's move; `problem` is set when there was none. */
export interface Checked {
  vm: VmStatus;
  request: MoveRequest;
  check: MoveCheck | null;
  findings: readonly Finding[];
  problem: Problem | null;
}

export const KINDS: [Kind, string, string][] = [
  ["host", "Host only", "The VM runs on another host; its disks stay on a datastore that both hosts see."],
  ["storage", "Storage only", "The disks go to another datastore; the VM stays on its host."],
  ["unified", "Host and storage", "Memory and disks go together, to a host that shares nothing with this one."],
];

export const POLICIES: [Policy, string][] = [
  ["balanced", "The guest is slowed as much as needed, and stands still no longer than the limit."],
  ["minimal-downtime", "The guest is never slowed; a move that cannot keep up gives up early."],
  ["suspend-if-needed", "The move always ends: in the worst case the guest stands still for the rest, for a time told before."],
];

export function newDraft(vms: string[]): Draft {
  return {
    vms, kind: "unified", host: "", datastore: "", disks: {}, policy: "balanced", downtime: 300, bandwidth: "",
    latency: "", switchover: "auto", at: "", window: "", priority: "normal", verify: false,
  };
}

/** What is asked for one VM; disks one by one are set where the move is of one VM alone. */
export function requestOf(draft: Draft, vm: VmStatus): MoveRequest {
  const request: MoveRequest = { vm: draft.vms.length > 1 ? vm.definition.uuid : vm.definition.name };
  if (draft.kind !== "storage" && draft.host) request.host = draft.host;
  if (draft.kind === "host") request.only_kind = "host";
  else {
    if (draft.datastore) request.datastore = draft.datastore;
    const disks = diskRequests(draft);
    if (draft.vms.length === 1 && Object.keys(disks).length) request.disks = disks;
  }
  request.policy = draft.policy;
  request.max_downtime_ms = draft.downtime;
  if (draft.bandwidth.trim()) request.bandwidth = draft.bandwidth.trim() as unknown as number;
  if (draft.latency) request.max_write_latency_ms = Number(draft.latency);
  if (draft.switchover !== "auto") request.switchover = draft.switchover;
  if (draft.at) request.at = draft.at;
  if (draft.window) request.window = draft.window;
  request.priority = draft.priority as NonNullable<MoveRequest["priority"]>;
  if (draft.verify) request.verify = true;
  return request;
}

function diskRequests(draft: Draft): Record<string, DiskRequest> {
  const found: Record<string, DiskRequest> = {};
  for (const [name, { datastore, format }] of Object.entries(draft.disks)) {
    if (!datastore && !format) continue;
    found[name] = {
      ...(datastore ? { datastore } : {}),
      ...(format ? { format: format as NonNullable<DiskRequest["format"]> } : {}),
    };
  }
  return found;
}

const MENDED_LATER = new Set(["datastore-missing", "datastore-full", "datastore-may-fill", "device-missing", "image-on-device"]);

/** Blockers that no later step of the wizard can mend. */
export function lasting(findings: readonly Finding[], kind: Kind): Finding[] {
  return findings.filter((it) => it.severity === "blocker" && !(kind === "unified" && MENDED_LATER.has(it.code)));
}

export function isBlocked(findings: readonly Finding[]): boolean {
  return findings.some((it) => it.severity === "blocker");
}
