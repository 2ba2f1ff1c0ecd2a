/** Rows searched and sorted, for tables. Pure. */
export interface Column<Row> {
  key: string;
  title: string;
  text: (row: Row) => string;
  /** What it is sorted by, where that is not its text. */
  value?: (row: Row) => number;
  kind?: "number" | "wide";
}

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

/** Every word of `search` has to be in some column. */
export function arranged<Row>(
  rows: readonly Row[],
  columns: Column<Row>[],
  search: string,
  sorted: string,
  down: boolean,
): Row[] {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (row: Row): boolean => {
    const text = columns.map((column) => column.text(row)).join("\n").toLowerCase();
    return words.every((word) => text.includes(word));
  };
  const found = words.length ? rows.filter(fits) : [...rows];
  const column = columns.find((it) => it.key === sorted);
  if (!column) return found;
  const sign = down ? -1 : 1;
  const { value, text } = column;
  return found.sort((a, b) => sign * (value ? value(a) - value(b) : collator.compare(text(a), text(b))));
}
