// What somebody chose or typed in a fragment and did not send yet. A new copy of the fragment brings the server's values; the
// choice is put back over them, or a click on the form's button would send what was not chosen.
// Dialogs are left out: an open one holds the new copy up, and what was left in a closed one is no wish.

type Field = HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement;
type Draft = { id: string; value: string; checked: boolean };

function isField(element: Element | null): element is Field {
  return element instanceof HTMLInputElement || element instanceof HTMLSelectElement || element instanceof HTMLTextAreaElement;
}

function edited(field: Field): boolean {
  if (field instanceof HTMLSelectElement) {
    // a list without a marked option begins with its first
    const begun = [...field.options].findIndex((option) => option.defaultSelected);
    return field.selectedIndex !== Math.max(begun, 0);
  }
  if (field instanceof HTMLInputElement && field.checked !== field.defaultChecked) return true;
  return field.value !== field.defaultValue;
}

export function drafts(fragment: Element): Draft[] {
  return [...fragment.querySelectorAll("form [id]")]
    .filter(isField)
    .filter((field) => field.closest("dialog") === null && edited(field))
    .map((field) => ({ id: field.id, value: field.value, checked: field instanceof HTMLInputElement && field.checked }));
}

export function restore(kept: Draft[]): void {
  for (const draft of kept) {
    const field = document.getElementById(draft.id);
    if (!isField(field)) continue; // the form is not offered any more
    if (field instanceof HTMLSelectElement && ![...field.options].some((option) => option.value === draft.value)) continue;
    field.value = draft.value;
    if (field instanceof HTMLInputElement) field.checked = draft.checked;
  }
}
