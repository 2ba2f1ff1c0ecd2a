/** The exact `kvmove` command that asks for the same move. Pure; what is as by default is left out. */
import type { DiskRequest, MoveRequest } from "../api/types";
import { size } from "./format";

const SAFE = /^[A-Za-z0-9_.,:=@%+/-]+$/;

/** A word that every POSIX shell takes as it stands. */
export function quoted(word: string): string {
  return SAFE.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

export function moveCommand(request: MoveRequest): string {
  const words = ["kvmove", "move", request.vm];
  if (request.host) words.push(request.host);
  const say = (option: string, value: string | number | null | undefined): void => {
    if (value !== null && value !== undefined && value !== "") words.push(option, String(value));
  };
  say("--datastore", request.datastore);
  for (const [name, disk] of Object.entries(request.disks ?? {})) {
    const place = diskWords(disk);
    if (place) words.push("--disk", `${name}=${place}`);
  }
  say("--format", request.format);
  say("--provisioning", request.provisioning);
  if (request.flatten) words.push("--flatten");
  if (request.verify) words.push("--verify");
  if (request.encrypt === false) words.push("--no-tls", "--yes");
  if (request.max_downtime_ms && request.max_downtime_ms !== 300) say("--max-downtime", `${request.max_downtime_ms}ms`);
  if (request.policy && request.policy !== "balanced") say("--policy", request.policy);
  if (request.max_write_latency_ms) say("--max-write-latency", `${request.max_write_latency_ms}ms`);
  if (request.bandwidth) say("--bandwidth", bandwidthWords(request.bandwidth));
  if (request.switchover && request.switchover !== "auto") say("--switchover", request.switchover);
  if (request.priority && request.priority !== "normal") say("--priority", request.priority);
  say("--at", request.at);
  say("--window", request.window);
  return words.map(quoted).join(" ");
}

function diskWords(disk: DiskRequest): string {
  const form = disk.format ? `:${disk.format}` : "";
  return `${disk.datastore ?? ""}${form}`;
}

/** Bytes/s as `--bandwidth` takes them. */
function bandwidthWords(rate: number | string): string {
  return typeof rate === "string" ? rate : size(rate).replace(" ", "").replace(".0", "");
}
