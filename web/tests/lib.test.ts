import { describe, expect, it } from "vitest";
import { SseParser } from "../src/api/sse";
import type { MoveProgress } from "../src/api/types";
import { moveCommand, quoted } from "../src/lib/command";
import { isBlocked, lasting, newDraft, requestOf } from "../src/lib/draft";
import { band, duration, size } from "../src/lib/format";
import { counts } from "../src/lib/regions";
import { figures } from "../src/lib/series.svelte";
import { arranged } from "../src/lib/table";

describe("the stream", () => {
  const text = ': hello\n\nevent: reset\ndata: {"revision":1}\n\nevent: vm\nid: 7\ndata: {"a":\ndata: 1}\n\n';

  it("reads the same wherever it was cut", () => {
    const whole = new SseParser().push(text);
    expect(whole).toEqual([
      { event: "reset", id: "", data: '{"revision":1}' },
      { event: "vm", id: "7", data: '{"a":\n1}' },
    ]);
    for (let cut = 0; cut <= text.length; cut += 1) {
      const parser = new SseParser();
      expect([...parser.push(text.slice(0, cut)), ...parser.push(text.slice(cut))]).toEqual(whole);
    }
  });
});

describe("the command", () => {
  it("says what differs from the defaults and nothing else", () => {
    expect(moveCommand({ vm: "web1", host: "h2", policy: "balanced", max_downtime_ms: 300 })).toBe("kvmove move web1 h2");
    expect(moveCommand({ vm: "web1", datastore: "fast", disks: { data: { format: "raw" }, root: { datastore: "a" } }, verify: true })).toBe(
      "kvmove move web1 --datastore fast --disk data=:raw --disk root=a --verify",
    );
    expect(moveCommand({ vm: "web1", host: "h2", bandwidth: 209715200 })).toContain("--bandwidth 200MiB");
  });

  it("never lets a name become a command", () => {
    expect(quoted("a; rm -rf /")).toBe("'a; rm -rf /'");
    expect(quoted("it's $(x)")).toBe("'it'\\''s $(x)'");
  });
});

describe("the wizard", () => {
  const vm = { definition: { name: "web1", uuid: "u" } } as never;

  it("asks for what was chosen", () => {
    const draft = { ...newDraft(["u"]), host: "h2", disks: { d: { datastore: "x", format: "" } } };
    expect(requestOf(draft, vm)).toMatchObject({ vm: "web1", host: "h2", disks: { d: { datastore: "x" } } });
    expect(requestOf({ ...draft, kind: "storage" }, vm).host).toBeUndefined();
    expect(requestOf({ ...draft, kind: "host" }, vm)).toMatchObject({ only_kind: "host" });
    expect(requestOf({ ...draft, kind: "host" }, vm).disks).toBeUndefined();
  });

  it("stops at blockers and lets warnings through", () => {
    const of = (severity: "blocker" | "warning", code: string) => ({ severity, code, what: "", remedy: "" });
    expect(isBlocked([of("warning", "x")])).toBe(false);
    expect(isBlocked([of("blocker", "x")])).toBe(true);
    expect(lasting([of("blocker", "datastore-missing")], "unified")).toEqual([]);
    expect(lasting([of("blocker", "datastore-missing")], "host")).toHaveLength(1);
  });
});

describe("figures", () => {
  it("are said as people say them", () => {
    expect(size(1536)).toBe("1.5 KiB");
    expect(duration(75)).toBe("1 min 15 s");
    expect(band(20, 40)).toBe("20 s to 40 s");
    expect(band(null, 3)).toBe("");
  });

  it("of counters are rates from one state to the next", () => {
    const at = (seconds: number, writes: number, held: number) =>
      ({ elapsed_seconds: seconds, memory: { dirty_rate: 0, throttle: 0 }, nics: [], disks: [{ writes, held_seconds: held }] }) as unknown as MoveProgress;
    expect(figures(at(3, 300, 0.5), at(1, 100, 0.1))).toMatchObject({ writes: 100, latency: 2 });
    expect(figures(at(1, 5, 1), null)["writes"]).toBeUndefined();
  });

  it("of regions add up", () => {
    expect(counts("##..")).toEqual([["uncopied", 0.5], ["copied", 0.5]]);
  });
});

describe("tables", () => {
  const columns = [{ key: "name", title: "Name", text: (row: string) => row }];
  it("find every word and sort numbers as numbers", () => {
    expect(arranged(["vm10", "vm2", "web"], columns, "VM", "name", false)).toEqual(["vm2", "vm10"]);
    expect(arranged(["a b", "b a", "c"], columns, "a b", "name", true)).toEqual(["b a", "a b"]);
  });
});
