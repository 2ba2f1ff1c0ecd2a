/** Hosts, datastores and networks as tables have them. Pure. */
import type { HostStatus, VmStatus } from "../api/types";

export interface StoreRow {
  id: string;
  name: string;
  hosts: string[];
  size: number;
  free: number;
}

export interface NetworkRow {
  name: string;
  hosts: string[];
  vms: number;
}

/** One row for each datastore; one that several hosts see is one. */
export function datastores(hosts: HostStatus[]): StoreRow[] {
  const found = new Map<string, StoreRow>();
  for (const host of hosts)
    for (const store of host.info?.datastores ?? []) {
      const row = found.get(store.id) ?? { ...store, hosts: [] };
      found.set(store.id, { ...row, hosts: [...row.hosts, host.name] });
    }
  return [...found.values()];
}

/** The bridges by their names: a VM's NIC finds its network on another host under the same name. */
export function networks(hosts: HostStatus[], vms: VmStatus[]): NetworkRow[] {
  const names = new Set(hosts.flatMap((host) => host.info?.bridges ?? []));
  return [...names].map((name) => ({
    name,
    hosts: hosts.filter((host) => host.info?.bridges.includes(name)).map((host) => host.name),
    vms: vms.filter((vm) => vm.definition.nics.some((nic) => nic.bridge === name)).length,
  }));
}

export function hostState(host: HostStatus): string {
  if (host.powered_off) return "powered off";
  if (!host.reachable) return "does not answer";
  return host.maintenance ? "maintenance" : "up";
}

export function loadOf(vm: VmStatus, hosts: ReadonlyMap<string, HostStatus>): { cpu: number; memory: number } | undefined {
  return hosts.get(vm.host)?.info?.load?.vms.find((it) => it.uuid === vm.definition.uuid);
}
