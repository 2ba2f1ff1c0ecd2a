/** Dark or light: as the system has it, until somebody chooses. */
const KEY = "kvmove-theme";

class Theme {
  dark = $state(false);

  constructor() {
    const system = matchMedia("(prefers-color-scheme: dark)");
    this.dark = (localStorage.getItem(KEY) ?? (system.matches ? "dark" : "light")) === "dark";
    this.#show();
  }

  toggle(): void {
    this.dark = !this.dark;
    localStorage.setItem(KEY, this.dark ? "dark" : "light");
    this.#show();
  }

  #show(): void {
    document.documentElement.setAttribute("cds-theme", this.dark ? "dark" : "light");
    document.documentElement.style.colorScheme = this.dark ? "dark" : "light";
  }
}

export const theme = new Theme();
