/** Server-sent events out of pieces of text, wherever the pieces were cut. Pure. */
export interface Message {
  event: string;
  id: string;
  data: string;
}

export class SseParser {
  #rest = "";
  #event = "";
  #id = "";
  #data: string[] = [];

  /** The messages that are complete with this piece. */
  push(piece: string): Message[] {
    const lines = (this.#rest + piece).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    return lines.flatMap((line) => this.#line(line));
  }

  #line(line: string): Message[] {
    if (line === "") return this.#complete();
    const colon = line.indexOf(":");
    if (colon === 0) return []; // a comment: the manager lives
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.#event = value;
    else if (field === "id") this.#id = value;
    else if (field === "data") this.#data.push(value);
    return [];
  }

  #complete(): Message[] {
    const message = { event: this.#event || "message", id: this.#id, data: this.#data.join("\n") };
    const has = this.#data.length > 0;
    this.#event = "";
    this.#id = "";
    this.#data = [];
    return has ? [message] : [];
  }
}
