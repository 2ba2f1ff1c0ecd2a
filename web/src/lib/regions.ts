/** The picture of a disk's regions: what its letters mean and how they look. Pure. */
export const COLUMNS = 64;

export const CELL_NAMES: Record<string, string> = {
  ".": "uncopied", "-": "partly copied", "*": "being copied", "#": "copied", "!": "to be copied again", "+": "copied again",
};

const LIGHT: Record<string, string> = { ".": "#d8dfe3", "-": "#9fd3e8", "*": "#f0b400", "#": "#0072a3", "!": "#d1331a", "+": "#5b3fa8" };
const DARK: Record<string, string> = { ".": "#33454f", "-": "#2d6480", "*": "#efc006", "#": "#4aaed9", "!": "#ff6b4f", "+": "#b39ddb" };

export function colours(dark: boolean): Record<string, string> {
  return dark ? DARK : LIGHT;
}

/** The share of each kind that is there, for those who do not see the picture. */
export function counts(regions: string): [string, number][] {
  const found = new Map<string, number>();
  for (const letter of regions) found.set(letter, (found.get(letter) ?? 0) + 1);
  return Object.entries(CELL_NAMES)
    .filter(([letter]) => found.has(letter))
    .map(([letter, name]) => [name, (found.get(letter) ?? 0) / regions.length]);
}
