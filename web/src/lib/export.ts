/** Files for the reader's machine. */
export function save(name: string, kind: string, content: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: kind }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** What is shown, as a page of its own without scripts. The text comes from nodes of text, so names stay text. */
export function reportHtml(title: string, shown: HTMLElement): string {
  const made = document.implementation.createHTMLDocument(title);
  const policy = made.createElement("meta");
  policy.httpEquiv = "Content-Security-Policy";
  policy.content = "default-src 'none'; style-src 'unsafe-inline'";
  const style = made.createElement("style");
  style.textContent =
    "body{font:14px/1.5 sans-serif;max-width:900px;margin:2em auto}td,th{padding:2px 12px;text-align:left}dt{color:#555}";
  const charset = made.createElement("meta");
  charset.setAttribute("charset", "utf-8");
  made.head.prepend(charset, policy, style);
  const heading = made.createElement("h1");
  heading.textContent = title;
  made.body.append(heading, made.importNode(shown, true));
  return `<!doctype html>${made.documentElement.outerHTML}`;
}
