/** Where the page is: the part of the address behind `#`, so the manager serves one file for all of them. */
class Route {
  #hash = $state(location.hash);

  constructor() {
    addEventListener("hashchange", () => (this.#hash = location.hash));
  }

  get parts(): string[] {
    const path = this.#hash.replace(/^#\/?/, "").split("?")[0] ?? "";
    return path.split("/").filter(Boolean).map(decoded);
  }

  get query(): URLSearchParams {
    return new URLSearchParams(this.#hash.split("?")[1] ?? "");
  }
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export const route = new Route();

export function go(hash: string): void {
  location.hash = hash;
}
