// A table whose rows are cards on a phone is laid out as blocks, and some browsers then take it for no table: its parts say what they are.
const ROLES: Record<string, string> = {
  TABLE: "table",
  THEAD: "rowgroup",
  TBODY: "rowgroup",
  TR: "row",
  TD: "cell",
};

function roleOf(part: Element): string {
  return ROLES[part.tagName] ?? (part.getAttribute("scope") === "row" ? "rowheader" : "columnheader");
}

export function nameTableParts(): void {
  for (const table of document.querySelectorAll("table.cards")) {
    for (const part of [table, ...table.querySelectorAll("thead, tbody, tr, th, td")]) {
      const role = roleOf(part);
      if (part.getAttribute("role") !== role) part.setAttribute("role", role);
    }
  }
}
